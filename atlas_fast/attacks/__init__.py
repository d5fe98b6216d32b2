"""Attacks on a classifier. Every attack is a callable (model, x, y) -> x_adv."""

from .apgd import APGD, APGDTargeted
from .autoattack import AutoAttack
from .fab import FABTargeted
from .fgsm import FGSM
from .margin import MultiTargeted, Untargeted
from .network import Network
from .pgd import PGD
from .rays import RayS
from .square import Square
from .transfer import Transfer

__all__ = ["APGD", "FGSM", "PGD", "APGDTargeted", "AutoAttack", "FABTargeted", "MultiTargeted", "Network", "RayS",
           "Square", "Transfer", "Untargeted"]
