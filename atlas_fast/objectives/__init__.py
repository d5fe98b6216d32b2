"""Training objectives: one framework (section 4 of the paper), a row of a table per method."""

from .framework import Objective
from .presets import (
    PAPER,
    PRESETS,
    adv,
    atlas,
    atlas_g,
    atlas_l,
    create,
    fat,
    grad_align,
    grad_align_weight,
    jac,
    llr,
    mart,
    n_fgsm,
    nuat,
    parameters,
    plain,
    trades,
    tradesjac,
)

__all__ = ["Objective", "PAPER", "PRESETS", "adv", "atlas", "atlas_g", "atlas_l", "create", "fat", "grad_align",
           "grad_align_weight", "jac", "llr", "mart", "n_fgsm", "nuat", "parameters", "plain", "trades", "tradesjac"]
