"""Attacks by name."""

import re

from ..attacks import FGSM, PGD
from ..errors import UserError

_PGD = re.compile(r"pgd-([1-9]\d*)(?:-([1-9]\d*))?")


def create_attack(name: str, eps: float, step_size: float | None = None) -> PGD:
    """ "fgsm" (random start, step 1.25 eps), "pgd-K" (K steps) or "pgd-K-R" (R restarts).

    eps, step_size: pixel units; step_size is PGD's, None: 2.5 eps / K. Raises UserError for another name or value.
    """
    if name == "fgsm":
        return FGSM(eps)
    match = _PGD.fullmatch(name)
    if match is None:
        raise UserError(f"unknown attack {name!r}; known are fgsm, pgd-K (K steps, as in pgd-20), "
                        "pgd-K-R (R restarts)")
    steps, restarts = match.groups()
    return PGD(eps, step_size, int(steps), int(restarts or 1))
