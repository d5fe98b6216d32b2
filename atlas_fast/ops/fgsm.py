"""FGSM from a random start in one launch (Wong et al. 2020; equations 2 and 3 of the paper):

    x' = clip( Pi_eps( x0 + step sign(grad) ), 0, 1 ),   x0 = random_start(x, eps, rng).

The start is not read from memory: its Philox counter gives it again.
"""

import torch

from . import rng as _rng
from ._arguments import check_images, check_tensors, number_and_tensor
from ._registry import define
from .pgd_step import pgd_step_reference
from .random_start import random_start_reference


def fgsm_reference(x, grad, eps, eps_tensor, step_size, step_tensor, rng, purpose=_rng.RANDOM_START, sample_offset=0):
    """The definition: `random_start` followed by `pgd_step`, the start kept in the computing precision."""
    wide = x.float() if x.dtype == torch.bfloat16 else x
    start = random_start_reference(wide, eps, eps_tensor, rng, purpose, sample_offset)
    moved = pgd_step_reference(wide, start, grad, eps, eps_tensor, step_size, step_tensor)
    return torch.empty_like(x).copy_(moved)


def _fake(x, grad, eps, eps_tensor, step_size, step_tensor, rng, purpose, sample_offset):
    return torch.empty_like(x)


_op = define("fgsm", "(Tensor x, Tensor grad, float eps, Tensor? eps_tensor, float step_size, Tensor? step_tensor, "
             "Tensor rng, int purpose, int sample_offset) -> Tensor", fgsm_reference, _fake)


def fgsm(x: torch.Tensor, grad: torch.Tensor, eps: float | torch.Tensor,
         step_size: float | torch.Tensor, rng: torch.Tensor, purpose: int = _rng.RANDOM_START,
         sample_offset: int = 0) -> torch.Tensor:
    """The one-step adversary: this rng's random start, a sign step and both projections, fused; strides as x.

    x: images [N, ...] in [0, 1]; grad: the loss's gradient at `random_start(x, eps, rng)`, same shape and dtype
    (float32, float64, bfloat16). eps, step_size: pixel units, numbers or 0-d tensors on the device (the paper steps
    1.25 eps). rng: the int64 [2] state that made the random start. No gradient.
    Raises UserError for mismatched shapes, dtypes or devices.
    """
    check_images(x, grad, what="fgsm")
    check_tensors("fgsm", rng)  # without one the start would be another than the gradient's
    _rng.check_counter(purpose, sample_offset)
    return _op(x.detach(), grad.detach(), *number_and_tensor(eps, "eps", x),
               *number_and_tensor(step_size, "step_size", x), _rng.resolve_rng(rng, x.device), purpose, sample_offset)
