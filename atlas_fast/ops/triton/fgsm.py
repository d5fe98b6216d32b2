"""The random start of this rng, a sign step and both projections in one launch (see ops/fgsm.py)."""

import torch
import triton
import triton.language as tl

from ._common import compute, interleaved_channels, launch_quads, like, number_and_pointer, quads, scalar
from .pgd_step import projected_step
from .random_start import start_point


@triton.jit(do_not_specialize=["sample_offset", "purpose"])
def _kernel(x, grad, out, eps, eps_pointer, step_size, step_pointer, rng, samples, n, spatial, sample_offset, purpose,
            CHANNELS: tl.constexpr, ALIGNED: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    words, offset, mask = quads(rng, samples, n, spatial, sample_offset, purpose, CHANNELS, ALIGNED, WIDE, BLOCK)
    image = compute(tl.load(x + offset, mask))
    radius = scalar(eps, eps_pointer)
    moved = projected_step(image, start_point(image, words, radius), compute(tl.load(grad + offset, mask)), radius,
                           scalar(step_size, step_pointer))
    tl.store(out + offset, moved.to(out.dtype.element_ty), mask)


def fgsm(x, grad, eps, eps_tensor, step_size, step_tensor, rng, purpose, sample_offset):
    out = torch.empty_like(x)
    channels = interleaved_channels(out)
    if channels is None:
        return out.copy_(fgsm(x.contiguous(), grad.contiguous(), eps, eps_tensor, step_size, step_tensor, rng, purpose,
                              sample_offset))
    launch_quads(_kernel, x, len(x), x[0].numel() if len(x) else 0, channels, rng, purpose, sample_offset,
                 like(x, out), like(grad, out), out, *number_and_pointer(eps, eps_tensor, x),
                 *number_and_pointer(step_size, step_tensor, x))
    return out
