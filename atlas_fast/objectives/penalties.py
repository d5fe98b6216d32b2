"""Local penalties: what is asked of the network at one point, and the penalty's value and derivative."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from .. import ops


@dataclasses.dataclass(frozen=True)
class JacobianPenalty:
    """weight * estimate of the batch mean of ||J||_F^2 at `point` (equation 12): C ||v^T J||^2, v on the unit sphere.

    The engine computes g = v^T J (a backward pass from the cotangent v to the input), asks `phi` for the value and for
    u = weight d value/dg, and carries u on to the parameters.
    """

    point: str
    weight: float | torch.Tensor
    num_projections: int
    term = "jacobian"

    def cotangent(self, logits: torch.Tensor, rng: torch.Tensor, sample_offset: int = 0) -> torch.Tensor:
        """v: [num_projections, N, C], one direction per sample and projection."""
        return ops.unit_vectors(rng, len(logits), logits.shape[1], draws=self.num_projections,
                                sample_offset=sample_offset)

    def phi(self, g: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(value, weight * d value/dg) for g: [K, N, ...]; value: C / (K N) sum g^2, without the weight."""
        return ops.squared_norm(g, classes / (g.shape[0] * g.shape[1]), self.weight)


@dataclasses.dataclass(frozen=True)
class LocalPenalty:
    """weight * function(logits, x, y) for a user's function, differentiated by autograd through the network."""

    point: str
    weight: float | torch.Tensor
    function: Callable
    term = "local"
