"""Estimate of the squared Frobenius norm of the input-output Jacobian (Hoffman et al. 2019, equation 12 of the paper):

    ||J(x)||_F^2 ~ C / K sum_k ||v_k^T J(x)||^2,   v_k uniform on the unit sphere of R^C, one per sample.

One backward pass gives v^T J of all samples at once. There is no factor 1/2: the public `jacobian_regularizer` package
returns half of this value.
"""

import torch

from ..errors import UserError
from . import rng as _rng
from ._arguments import FLOATS, check_tensors, whole
from .squared_norm import SquaredNorm
from .unit_vectors import unit_vectors, unit_vectors_reference


def project(logits: torch.Tensor, x: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """v^T J per sample and draw: [K, *x.shape], differentiable; directions [K, N, C].

    Samples must not interact for this to be exact per sample: train-mode BatchNorm couples them.
    """
    rows = [torch.autograd.grad(logits, x, v, create_graph=True, allow_unused=True)[0]
            for v in directions.to(logits.dtype)]
    if rows[0] is None:
        raise UserError("jacobian_norm needs logits that were computed from x")
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def _check(logits: torch.Tensor, x: torch.Tensor, num_projections: int) -> None:
    check_tensors("jacobian_norm", logits, x)
    if logits.dim() != 2 or x.dim() < 1 or len(logits) != len(x) or logits.shape[1] == 0:
        raise UserError("jacobian_norm needs logits [N, C] of the images [N, ...], got "
                        f"{list(logits.shape)} and {list(x.shape)}")
    if x.dtype not in FLOATS:
        raise UserError(f"jacobian_norm needs float32, float64 or bfloat16 images, got {x.dtype}")
    if not x.requires_grad or not logits.requires_grad:
        raise UserError("jacobian_norm needs x.requires_grad_() before the logits are computed from it")
    if not whole(num_projections, 1):
        raise UserError(f"num_projections must be a whole number of at least 1, got {num_projections!r}")


def jacobian_norm_reference(logits, x, num_projections=1, rng=None):
    """The same estimate in plain PyTorch."""
    _check(logits, x, num_projections)
    rng = _rng.resolve_rng(rng, x.device)
    directions = unit_vectors_reference(rng, len(logits), logits.shape[1], num_projections)
    return project(logits, x, directions).square().sum() * (logits.shape[1] / (num_projections * max(len(x), 1)))


def jacobian_norm(logits: torch.Tensor, x: torch.Tensor, num_projections: int = 1,
                  rng: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over the batch of the estimate of ||J||_F^2: 0-d, differentiable (once) with respect to the parameters.

    logits: [N, C], computed from x; x: images [N, ...] that require grad; num_projections: directions per sample, each
    costs one backward pass, C of them are not needed for a good estimate. rng: int64 [2] (seed, step) or None.
    Raises UserError for mismatched shapes or an x that does not require grad.
    """
    _check(logits, x, num_projections)
    directions = unit_vectors(_rng.resolve_rng(rng, x.device), len(logits), logits.shape[1], num_projections)
    rows = project(logits, x, directions)
    return SquaredNorm.apply(rows, logits.shape[1] / (num_projections * max(len(x), 1)))
