"""x' = clip(Pi_eps(x'_t + step sign(grad)), 0, 1), element by element (see ops/pgd_step.py)."""

import torch
import triton
import triton.language as tl

from ._common import INT32_LIMIT, clamp, compute, launch, like, number_and_pointer, scalar

_BLOCK = 1024


@triton.jit
def projected_step(x, x_adv, grad, eps, step_size):
    """All in the computing precision. sign(0) = sign(NaN) = 0; NaN where x is NaN, around which is no ball."""
    sign = (grad > 0).to(x.dtype) - (grad < 0).to(x.dtype)
    projected = clamp(x_adv + sign * step_size, x - eps, x + eps)
    return clamp(tl.where(x == x, projected, x), 0.0, 1.0)


@triton.jit
def _kernel(x, x_adv, grad, out, eps, eps_pointer, step_size, step_pointer, numel, WIDE: tl.constexpr,
            BLOCK: tl.constexpr):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    offset = program * BLOCK + tl.arange(0, BLOCK)
    mask = offset < numel
    moved = projected_step(compute(tl.load(x + offset, mask)), compute(tl.load(x_adv + offset, mask)),
                           compute(tl.load(grad + offset, mask)), scalar(eps, eps_pointer),
                           scalar(step_size, step_pointer))
    tl.store(out + offset, moved.to(out.dtype.element_ty), mask)


def pgd_step(x, x_adv, grad, eps, eps_tensor, step_size, step_tensor):
    out = torch.empty_like(x)
    launch(_kernel, triton.cdiv(x.numel(), _BLOCK), x, like(x, out), like(x_adv, out), like(grad, out), out,
           *number_and_pointer(eps, eps_tensor, x), *number_and_pointer(step_size, step_tensor, x), x.numel(),
           WIDE=x.numel() >= INT32_LIMIT, BLOCK=_BLOCK)
    return out
