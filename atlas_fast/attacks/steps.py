"""Random starts and ascent steps in a norm: L_inf by the fused operations, L2 as below. Used by projected attacks.

    start   x0 = clip(x + delta, 0, 1),   delta uniform in the ball
    step    x' = clip(Pi(x' + step u(g)), 0, 1),   L_inf: u = sign(g), Pi clamps;   L2: u = g / ||g||, Pi scales back

x lies in [0, 1], so that clipping brings no point further from x.
"""

from __future__ import annotations

import torch

from .. import ops
from ..errors import UserError

NORMS = ("Linf", "L2")


def check_norm(norm: str) -> str:
    """`norm`, or UserError."""
    if norm not in NORMS:
        raise UserError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return norm


def random_start(x: torch.Tensor, eps: float, norm: str, rng: torch.Tensor, draw: int,
                 sample_offset: int = 0) -> torch.Tensor:
    """A uniform point of the ball around each image, clipped to [0, 1]. x: images [N, ...]; draw: counts the starts.

    L2: d of the d + 2 coordinates of a uniform direction of R^(d + 2) are uniform in the unit ball of R^d
    (Voelker et al. 2017, "Efficiently sampling vectors and coordinates from the n-sphere and n-ball").
    """
    purpose = ops.stream(ops.RANDOM_START, draw)
    if norm == "Linf":
        return ops.random_start(x, eps, rng, purpose, sample_offset)
    d = x.shape[1:].numel()
    delta = ops.unit_vectors(rng, len(x), d + 2, 1, purpose, sample_offset)[0, :, :d].reshape(x.shape)
    return (x + eps * delta.to(x.dtype)).clamp_(0, 1)


def ascent_step(x: torch.Tensor, x_adv: torch.Tensor, gradient: torch.Tensor, eps: float, step_size: float,
                norm: str) -> torch.Tensor:
    """x_adv moved along the gradient and projected on the ball around x and on [0, 1]. A sample whose gradient is 0 or
    not finite stays where it is (L_inf: such a pixel)."""
    if norm == "Linf":
        return ops.pgd_step(x, x_adv, gradient, eps, step_size)
    delta = torch.add(x_adv - x, _direction(gradient), alpha=step_size)
    shrink = (eps / _length(delta)).clamp_max_(1)
    return torch.addcmul(x, delta, shrink).clamp_(0, 1)


def _direction(gradient: torch.Tensor) -> torch.Tensor:
    """g / ||g||. Divided by the largest entry first: squares of a confident network's gradients underflow."""
    scaled = gradient / _length(gradient, torch.inf)
    return torch.nan_to_num_(scaled / _length(scaled), nan=0.0, posinf=0.0, neginf=0.0)


def _length(v: torch.Tensor, ord: float = 2) -> torch.Tensor:
    return torch.linalg.vector_norm(v, ord, dim=tuple(range(1, v.dim())), keepdim=True)
