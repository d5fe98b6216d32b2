"""Uniform random start in the eps-ball (Wong et al. 2020; the paper's section 6):

    x0 = clip(x + eps (2u - 1), 0, 1),   u ~ U[0, 1)  from Philox, one per pixel.
"""

import torch

from . import rng as _rng
from ._arguments import check_images, compute_dtype, number_and_tensor, scaled
from ._registry import define


def random_start_reference(x, eps, eps_tensor, rng, purpose=_rng.RANDOM_START, sample_offset=0):
    """The definition. The noise is drawn in logical (NCHW) order whatever the strides of x."""
    dtype = compute_dtype(x.dtype)
    uniform = _rng.uniform_reference(rng, x.shape[0], x.shape[1:].numel(), purpose, sample_offset)
    noise = (2 * uniform - 1).to(dtype).reshape(x.shape)
    start = x.to(dtype) + scaled(eps, eps_tensor, dtype) * noise
    return torch.empty_like(x).copy_(start.clamp(0, 1))


def _fake(x, eps, eps_tensor, rng, purpose, sample_offset):
    return torch.empty_like(x)


_op = define("random_start",
             "(Tensor x, float eps, Tensor? eps_tensor, Tensor rng, int purpose, int sample_offset) -> Tensor",
             random_start_reference, _fake)


def random_start(x: torch.Tensor, eps: float | torch.Tensor, rng: torch.Tensor | None = None,
                 purpose: int = _rng.RANDOM_START, sample_offset: int = 0) -> torch.Tensor:
    """A uniform point of the eps-ball around each image, clipped to [0, 1]; strides as x, no gradient.

    x: images [N, ...] in [0, 1], float32, float64 or bfloat16. eps: radius in pixel units, a number or a 0-d tensor on
    x's device. rng: int64 [2] (seed, step); None draws a seed from torch's default generator.
    Raises UserError for a wrong dtype, shape or device.
    """
    check_images(x, what="random_start")
    _rng.check_counter(purpose, sample_offset)
    return _op(x.detach(), *number_and_tensor(eps, "eps", x), _rng.resolve_rng(rng, x.device), purpose, sample_offset)
