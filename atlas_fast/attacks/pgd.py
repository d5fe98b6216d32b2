"""Projected gradient descent (Madry et al. 2018; equation 2 of the paper), L_inf and L2."""

from __future__ import annotations

import torch

from .checks import check_logits
from .directions import ascend_ce
from .network import Network
from .projected import ProjectedAscent


class PGD(ProjectedAscent):
    """Ascends the cross-entropy by `steps` projected steps: the sign of the gradient (L_inf) or its direction (L2).

    eps, step_size: pixel units (images in [0, 1]); step_size None: 1.25 eps for one step, 2.5 eps / steps for more.
    restarts: independent random starts; a sample keeps the first adversary that is misclassified, or the last one
    where none is, and later restarts leave it out. random_start False starts at x. any_step: the first misclassified
    iterate counts, else the last iterate. max_batch: images at once where restarts make more, None: as many as the
    batch has. Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, step_size: float | None = None, steps: int = 20, restarts: int = 1,
                 random_start: bool = True, norm: str = "Linf", any_step: bool = False, max_batch: int | None = None):
        super().__init__(eps, step_size, steps, restarts, random_start, norm, any_step, max_batch)

    _direction = staticmethod(ascend_ce)


def misclassified(model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """bool [N]: the class of the largest logit is not y. model: as attacks take it."""
    logits = Network(model).logits(x)
    check_logits(logits, y)
    return logits.argmax(1) != y
