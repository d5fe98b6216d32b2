"""Training objectives: one framework (section 4 of the paper), a row of a table per method."""

from .framework import Objective
from .presets import PRESETS, adv, atlas, atlas_g, atlas_l, create, jac, parameters, plain, trades, tradesjac

__all__ = ["Objective", "PRESETS", "adv", "atlas", "atlas_g", "atlas_l", "create", "jac", "parameters", "plain",
           "trades", "tradesjac"]
