"""x0 = clip(x + eps (2u - 1), 0, 1), one Philox counter per four pixels (see ops/random_start.py)."""

import torch
import triton
import triton.language as tl

from ._common import (
    clamp,
    compute,
    interleaved_channels,
    launch_quads,
    like,
    number_and_pointer,
    quads,
    scalar,
    symmetric_uniform,
)


@triton.jit
def start_point(x, words, eps):
    """x is in the computing precision."""
    noise = symmetric_uniform(words).to(x.dtype)
    return clamp(x + noise * eps, 0.0, 1.0)


@triton.jit(do_not_specialize=["sample_offset", "purpose"])
def _kernel(x, out, eps, eps_pointer, rng, samples, n, spatial, sample_offset, purpose, CHANNELS: tl.constexpr,
            ALIGNED: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    words, offset, mask = quads(rng, samples, n, spatial, sample_offset, purpose, CHANNELS, ALIGNED, WIDE, BLOCK)
    image = compute(tl.load(x + offset, mask))
    tl.store(out + offset, start_point(image, words, scalar(eps, eps_pointer)).to(out.dtype.element_ty), mask)


def random_start(x, eps, eps_tensor, rng, purpose, sample_offset):
    out = torch.empty_like(x)
    channels = interleaved_channels(out)
    if channels is None:
        return out.copy_(random_start(x.contiguous(), eps, eps_tensor, rng, purpose, sample_offset))
    launch_quads(_kernel, x, len(x), x[0].numel() if len(x) else 0, channels, rng, purpose, sample_offset,
                 like(x, out), out, *number_and_pointer(eps, eps_tensor, x))
    return out
