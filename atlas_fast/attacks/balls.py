"""The L_inf and the L2 ball around images, cut with [0, 1]: where an adversary may be, and how to move in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import ops
from ..ops.rng import stream

_TINY = 1e-12  # of the reference code of APGD and FAB: a vector of length 0 stays 0


class LinfBall:
    """|x' - x| <= eps in every pixel. x: images [N, ...] in [0, 1]."""

    def __init__(self, x: torch.Tensor, eps: float):
        self._low, self._high = (x - eps).clamp_min_(0), (x + eps).clamp_max_(1)

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """The nearest point of the ball and of [0, 1]."""
        return z.clamp(self._low, self._high)

    @staticmethod
    def direction(gradient: torch.Tensor) -> torch.Tensor:
        """The step of L_inf length 1 that raises a linear function the most; 0 in a pixel whose gradient is NaN."""
        return gradient.sign().nan_to_num_(0.0)

    def keep(self, rows: torch.Tensor) -> None:
        self._low, self._high = self._low[rows], self._high[rows]


class L2Ball:
    """||x' - x||_2 <= eps per sample. x: images [N, ...] in [0, 1]."""

    def __init__(self, x: torch.Tensor, eps: float):
        self._x, self._eps = x, eps

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """Scaled back into the ball, then clipped to [0, 1], which brings it no further from x."""
        offset = z - self._x
        return torch.addcmul(self._x, offset, (self._eps / (norms(offset, "L2") + _TINY)).clamp_max_(1)).clamp_(0, 1)

    @staticmethod
    def direction(gradient: torch.Tensor) -> torch.Tensor:
        """The step of L2 length 1 that raises a linear function the most; 0 where the gradient is 0 or not finite.

        Divided by its largest entry first, since squares of gradients may underflow or overflow.
        """
        scaled = (gradient / norms(gradient, "Linf")).nan_to_num_(0.0)
        return scaled.div_(norms(scaled, "L2") + _TINY)

    def keep(self, rows: torch.Tensor) -> None:
        self._x = self._x[rows]


def ball(norm: str, x: torch.Tensor, eps: float) -> LinfBall | L2Ball:
    """The ball of radius eps (pixel units) around images x [N, ...] in the norm "Linf" or "L2"."""
    return LinfBall(x, eps) if norm == "Linf" else L2Ball(x, eps)


def norms(offset: torch.Tensor, norm: str) -> torch.Tensor:
    """The norm of every sample of offset [N, ...], as [N, 1, ...]."""
    return torch.linalg.vector_norm(offset, torch.inf if norm == "Linf" else 2, dim=tuple(range(1, offset.dim())),
                                    keepdim=True)


def noise(norm: str, x: torch.Tensor, rng: torch.Tensor, purpose: int, sample_offset: int) -> torch.Tensor:
    """Directions of norm 1, like x: a uniform point of a cube or a normal vector, divided by its norm.

    They depend on the samples' indices only (atlas_fast.ops.rng). rng: int64 [2] (seed, step); purpose: counter word.
    """
    samples, n = len(x), x.shape[1:].numel()
    if norm == "L2":
        return ops.unit_vectors(rng, samples, n, 1, purpose, sample_offset)[0].view(x.shape).to(x.dtype)
    bits = ops.random_bits(rng, samples, n, purpose, sample_offset) >> 8
    cube = bits.to(torch.promote_types(x.dtype, torch.float32)).mul_(2.0**-23).sub_(1)
    return (cube / (norms(cube, "Linf") + _TINY)).view(x.shape).to(x.dtype)


def noises(norm: str, x: torch.Tensor, sample: torch.Tensor, rng: torch.Tensor, purpose: int, draws: Sequence[int],
           sample_offset: int) -> torch.Tensor:
    """`noise` of several draws for rows [R, ...]: a part for each draw, with the samples of x that `sample` names.

    sample: int64 [R], the same samples in every part.
    """
    parts = zip(draws, sample.chunk(len(draws)), strict=True)
    return torch.cat([noise(norm, x, rng, stream(purpose, draw), sample_offset)[part] for draw, part in parts])
