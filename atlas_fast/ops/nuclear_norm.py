"""The nuclear norm (sum of singular values) and its gradient by matrix products alone, so that no step waits:

    D = U S V^T,   ||D||_* = <D, P>,   d||D||_*/dD = P = U V^T, the polar factor of D.

torch.linalg.svd asks the device whether it converged, which a CUDA graph cannot record. P is the limit of
X <- a X + b X X^T X from X = D / ||D||_F, with a = 3 t / 2, b = -t^3 / 2, t^2 = 3 / (1 + l + l^2) where the singular
values of X lie in [l, 1]: the cubic that raises the smallest one most (Chen and Chow 2014). l counts as at least 0.2,
which raises by 2.3 a step instead of 2.6: with less, the largest singular value would cancel to l and lose its digits.
"""

import functools
import math

import torch

from ..errors import UserError
from ._arguments import FLOATS, check_tensors, compute_dtype
from ._once import once

_SMALLEST = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Singular values, relative to ||D||_F, that are carried up to 1; what lies far below is rounding of D."""


@functools.lru_cache
def _schedule(dtype: torch.dtype) -> tuple[tuple[float, float], ...]:
    """(a, b) of every step."""
    low, enough, steps = _SMALLEST[dtype], math.sqrt(torch.finfo(dtype).eps), []
    finished = False
    while not finished:
        finished = 1 - low < enough  # the last step squares the error
        bound = max(low, 0.2)
        t = math.sqrt(3 / (1 + bound + bound * bound))
        steps.append((1.5 * t, -0.5 * t**3))
        low = min(v * t * (3 - (v * t) ** 2) / 2 for v in (low, 1.0))
    return tuple(steps)


def polar_factor(matrix: torch.Tensor) -> torch.Tensor:
    """P = U V^T of a matrix [M, N], float32 or float64 as it computes; 0 where the matrix is 0. No gradient.

    Directions whose singular value is 0 get 0; below 1e-6 (float64: 1e-12) of ||D||_F something between 0 and 1.
    Raises UserError for another shape or dtype.
    """
    check_tensors("nuclear_norm", matrix)
    if matrix.dim() != 2 or matrix.dtype not in FLOATS:
        raise UserError("nuclear_norm needs a float32, float64 or bfloat16 matrix [M, N], got "
                        f"{matrix.dtype} {list(matrix.shape)}")
    d = matrix.detach().to(compute_dtype(matrix.dtype))
    if d.numel() == 0:
        return d
    x = d if len(d) >= d.shape[1] else d.mT
    x = x / x.abs().amax().clamp_min(torch.finfo(x.dtype).tiny)  # or squares of large and small entries leave the range
    x = x / torch.linalg.vector_norm(x).clamp_min(torch.finfo(x.dtype).tiny)
    for a, b in _schedule(x.dtype):
        x = torch.addmm(x, x, x.mT @ x, beta=a, alpha=b)
    return x if len(d) >= d.shape[1] else x.mT


class _NuclearNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix):
        factor = polar_factor(matrix)
        ctx.save_for_backward(matrix, factor)
        return (factor * matrix).sum()

    @staticmethod
    def backward(ctx, grad_norm):
        matrix, factor = ctx.saved_tensors
        return once("nuclear_norm", (factor * grad_norm).to(matrix.dtype), matrix)


def nuclear_norm(matrix: torch.Tensor) -> torch.Tensor:
    """||D||_* of a matrix [M, N], 0-d, differentiable once; waits for nothing on the device. Errors as above."""
    return _NuclearNorm.apply(matrix)
