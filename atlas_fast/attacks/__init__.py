"""Attacks on a classifier. Every attack is a callable (model, x, y) -> x_adv."""

from .fgsm import FGSM
from .pgd import PGD

__all__ = ["FGSM", "PGD"]
