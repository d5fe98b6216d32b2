"""scale sum(g^2) and 2 scale weight g (see ops/squared_norm.py): sums per program, then one program adds those.

No atomics, and the number of programs depends on the size alone, so the value is the same in every run.
"""

import torch
import triton
import triton.language as tl

from .._arguments import compute_dtype
from ._common import INT32_LIMIT, compute, launch, like, number_and_pointer, scalar

_BLOCK = 1024
_MAX_PROGRAMS = 1024


@triton.jit
def _partial_sums(g, partials, gradient, factor, factor_pointer, numel, programs, ROUNDS: tl.constexpr,
                  WIDE: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    first = program
    if WIDE:
        first = program.to(tl.int64)
    offset = first * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=partials.dtype.element_ty)
    for _ in range(ROUNDS):
        mask = offset < numel
        value = compute(tl.load(g + offset, mask, other=0.0))
        total += value * value
        if gradient is not None:
            product = value * scalar(factor, factor_pointer)
            tl.store(gradient + offset, product.to(gradient.dtype.element_ty), mask)
        offset += programs * BLOCK
    tl.store(partials + program, tl.sum(total, axis=0))


@triton.jit
def _total(partials, value, scale, scale_pointer, programs, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    total = tl.sum(tl.load(partials + index, index < programs, other=0.0), axis=0)
    tl.store(value, total * scalar(scale, scale_pointer))


def squared_norm(g, scale, weight, weight_tensor, with_gradient):
    gradient = torch.empty_like(g) if with_gradient else None
    source = like(g, torch.empty_like(g, device="meta") if gradient is None else gradient)
    blocks = triton.cdiv(g.numel(), _BLOCK)
    programs = min(blocks, _MAX_PROGRAMS)
    partials = torch.empty(programs, dtype=compute_dtype(g.dtype), device=g.device)
    value = torch.empty((), dtype=partials.dtype, device=g.device)
    launch(_partial_sums, programs, g, source, partials, gradient,
           *number_and_pointer(2 * scale * weight, weight_tensor, g), g.numel(), programs,
           ROUNDS=triton.cdiv(blocks, max(programs, 1)), WIDE=g.numel() + programs * _BLOCK >= INT32_LIMIT,
           BLOCK=_BLOCK)
    launch(_total, 1, g, partials, value, *number_and_pointer(scale, None, g), programs,
           BLOCK=triton.next_power_of_2(max(programs, 1)))
    return value, g.new_empty(0) if gradient is None else gradient
