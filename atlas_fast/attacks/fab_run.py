"""One run of targeted FAB from given starts; the formulas are in fab.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .attempts import Outcome
from .balls import norms
from .network import Network
from .projections import to_hyperplane
from .survivors import keep_rows, per_image, survivors

_LOOK_EVERY = 5  # steps between the looks at which rows are done; each waits for the device


@dataclass
class State:
    """What the rows of a run carry along: tensors with one entry per row."""

    sample: torch.Tensor
    attempt: torch.Tensor
    pair: torch.Tensor  # classes [R, 2]: the target and y
    clean: torch.Tensor
    x: torch.Tensor
    fooled: torch.Tensor
    adversary: torch.Tensor  # the first that lay within eps


class Run:
    """eps: pixel units; adversaries within eps go to the outcome (attempts.py). The others: see fab.FABTargeted."""

    def __init__(self, network: Network, norm: str, eps: float, steps: int, alpha_max: float, eta: float, beta: float):
        self._network, self._norm, self._eps, self._steps = network, norm, eps, steps
        self._alpha_max, self._eta, self._beta = alpha_max, eta, beta

    def __call__(self, outcome: Outcome, sample: torch.Tensor, attempt: torch.Tensor, y: torch.Tensor,
                 target: torch.Tensor, clean: torch.Tensor, start: torch.Tensor) -> State:
        """y, target: int64 [R]; clean, start: images [R, ...]. Returns what the rows that are left carry at the end."""
        state = State(sample, attempt, torch.stack([target, y], 1), clean, start, torch.zeros_like(y, dtype=torch.bool),
                      clean)
        for step in range(1, self._steps + 1):
            self._step(state)
            if (step == 1 or step % _LOOK_EVERY == 0 or step == self._steps) and not self._shrink(state, outcome):
                break
        return state

    def _step(self, s: State) -> None:
        to_plane, from_clean = self._projections(s)
        near, far = (norms(d, self._norm).clamp_min_(1e-8) for d in (to_plane, from_clean))
        alpha = (near / (near + far)).clamp_max_(self._alpha_max)
        x = torch.add(s.x, to_plane, alpha=self._eta).lerp_(torch.add(s.clean, from_clean, alpha=self._eta), alpha)
        x = torch.where(x.isnan(), s.x, x).clamp_(0, 1)
        wrong = self._network.logits(x).argmax(1) != s.pair[:, 1]
        offset = x - s.clean
        hit = wrong & (norms(offset, self._norm).flatten() <= self._eps)
        s.adversary = torch.where(per_image(hit & ~s.fooled, x), x, s.adversary)
        s.fooled = s.fooled | hit
        s.x = torch.where(per_image(wrong, x), torch.add(s.clean, offset, alpha=self._beta), x)

    def _projections(self, s: State) -> torch.Tensor:
        """From s.x and from the clean image to the hyperplane where the linearised z_t - z_y is 0: [2, R, ...]."""
        logits, w = self._network.gradient(s.x, lambda logits: _difference(logits, s.pair))
        z = logits.gather(1, s.pair).to(w.dtype)
        points, w = torch.stack([s.x, s.clean]).flatten(2), w.flatten(1)
        missing = z[:, 1] - z[:, 0]
        missing = torch.stack([missing, missing + (w * (points[0] - points[1])).sum(1)])
        return to_hyperplane(points, w, missing, self._norm).view(2, *s.x.shape)

    def _shrink(self, s: State, outcome: Outcome) -> bool:
        """Report, and drop the rows that are done; False where none is left. Waits for the device."""
        outcome.note(s.sample, s.attempt, s.fooled, s.adversary)
        rows = survivors(outcome.done(s.sample, s.attempt), outcome.granularity)
        if rows is not None:
            keep_rows(s, rows)
        return rows is None or len(rows) > 0


def _difference(logits: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    """The gradient of sum(z_t - z_y) with respect to the logits; pair: [R, 2], t and y."""
    ones = torch.ones_like(pair[:, :1], dtype=logits.dtype)
    return torch.zeros_like(logits).scatter_(1, pair, torch.cat([ones, -ones], 1))
