"""Philox words, four per lane (see ops/rng.py)."""

import torch
import triton
import triton.language as tl

from ._common import launch_quads, quads


@triton.jit(do_not_specialize=["sample_offset", "purpose"])
def _kernel(out, rng, samples, n, spatial, sample_offset, purpose, CHANNELS: tl.constexpr, ALIGNED: tl.constexpr,
            WIDE: tl.constexpr, BLOCK: tl.constexpr):
    words, offset, mask = quads(rng, samples, n, spatial, sample_offset, purpose, CHANNELS, ALIGNED, WIDE, BLOCK)
    tl.store(out + offset, words.to(tl.int64), mask)


def random_bits(rng, samples, n, purpose, sample_offset):
    out = torch.empty((samples, n), dtype=torch.int64, device=rng.device)
    launch_quads(_kernel, out, samples, n, 1, rng, purpose, sample_offset, out)
    return out
