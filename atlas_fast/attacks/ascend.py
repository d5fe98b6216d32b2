"""The loop that every sign-gradient adversary runs, in training and in evaluation (equation 2 of the paper)."""

from collections.abc import Callable

import torch

from .. import ops
from .early_stop import EarlyStop


def default_step_size(eps: float, steps: int) -> float:
    """1.25 eps for one step (Wong et al. 2020, the paper's appendix B.1), 2.5 eps / k for k (Madry et al. 2018)."""
    return 1.25 * eps if steps == 1 else 2.5 * eps / steps


def ascend(x: torch.Tensor, gradient: Callable[[torch.Tensor], torch.Tensor], eps, step_size, steps: int,
           rng: torch.Tensor | None, *, purpose: int = ops.RANDOM_START, sample_offset: int = 0,
           start: torch.Tensor | None = None, early: EarlyStop | None = None) -> torch.Tensor:
    """x': `steps` projected sign steps from `start`, else from a random start of the eps-ball (rng None: from x).

    x: images [N, ...] in [0, 1]; gradient: x' -> the loss's gradient there, shape and dtype of x; eps, step_size:
    pixel units, numbers or 0-d tensors on the device; rng: int64 [2] (seed, step); start: like x; early: which samples
    stop sooner, told by `gradient`. One step from a random start is a single launch that regenerates the start; it
    gives what `pgd_step` would.
    """
    if start is not None:
        x_adv = start
    elif rng is None:
        x_adv = x
    else:
        x_adv = ops.random_start(x, eps, rng, purpose, sample_offset)
        if steps == 1 and early is None:
            return ops.fgsm(x, gradient(x_adv), eps, step_size, rng, purpose, sample_offset)
    for i in range(steps):
        g = gradient(x_adv)
        if early is None:
            x_adv = ops.pgd_step(x, x_adv, g, eps, step_size)
        else:
            x_adv = early.held(x_adv, ops.pgd_step(x, early.shaken(x_adv, i), g, eps, step_size))
    return x_adv
