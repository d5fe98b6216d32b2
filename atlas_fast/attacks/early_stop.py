"""An ascent that stops sample by sample once it has succeeded (Zhang et al. 2020, algorithm 1, "PGD-K-tau").

In every step a sample that is misclassified stays where it is for good if it was so in tau steps before; else it moves:

    x'_{t+1} = clip( Pi_eps( x'_t + omega n + step sign(grad) ), 0, 1 ),   n ~ N(0, 1)

Its authors take the samples out one by one and so reorder the batch. Here all of them stay in it, in their order, and
the device decides who moves: nothing waits for the host, and every step costs as much as the first.
"""

from __future__ import annotations

import math

import torch

from .. import ops


class EarlyStop:
    """y: int64 labels [N]; tau: steps that a misclassified sample still takes; omega: of the noise, pixel units (a
    number or a 0-d tensor); rng: int64 [2] (seed, step) of the noise."""

    def __init__(self, y: torch.Tensor, tau: int, omega, rng: torch.Tensor, sample_offset: int = 0):
        self._y, self._omega, self._rng, self._offset = y, omega, rng, sample_offset
        self._left = torch.full_like(y, tau)
        self._moves = torch.ones_like(y, dtype=torch.bool)

    def look(self, logits: torch.Tensor) -> None:
        """Count the samples that are misclassified now. logits: [N, C], of the iterate."""
        wrong = (logits.argmax(1) != self._y) & self._moves
        self._moves = self._moves & ~(wrong & (self._left == 0))
        self._left = self._left - wrong.to(self._left.dtype)

    def shaken(self, x_adv: torch.Tensor, step: int) -> torch.Tensor:
        """x_adv + omega n, with noise of this step's own."""
        if not isinstance(self._omega, torch.Tensor) and self._omega == 0:
            return x_adv
        # Draw 0 is the random start's.
        noise = normal(self._rng, x_adv, ops.stream(ops.RANDOM_START, step + 1), self._offset)
        return torch.empty_like(x_adv).copy_(x_adv + self._omega * noise)

    def held(self, x_adv: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """`moved` where the sample moves, else x_adv."""
        return torch.where(self._moves.view(-1, *(1,) * (x_adv.dim() - 1)), moved, x_adv)


def normal(rng: torch.Tensor, like: torch.Tensor, purpose: int, sample_offset: int = 0) -> torch.Tensor:
    """Standard normals of the shape and dtype of `like` [N, ...], drawn in logical order (Box and Muller, see
    ops/unit_vectors.py)."""
    n = like.shape[1:].numel()
    words = ops.random_bits(rng, len(like), n + n % 2, purpose, sample_offset) >> 8
    u1, u2 = (((words[:, i::2] + 1 - i) * 2.0**-24).to(like.dtype) for i in (0, 1))
    radius, angle = (-2 * u1.log()).clamp_min(0).sqrt(), 2 * math.pi * u2
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(1)[:, :n].reshape(like.shape)
