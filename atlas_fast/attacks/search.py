"""Projected ascent of many rows at once: every row is one sample with one start and, where there is one, one target.

A row is broken when its sample is misclassified: any_step, after any update (it keeps that iterate), else after the
last one. Which adversary a sample keeps is defined by an order, not by how the work was cut into batches:

    the lowest unit (a restart; for targeted attacks a restart and a block of targets),
    of its rows the one that broke after the fewest updates,
    of those the one in the first place of the unit.

So several units may run together where memory allows, and a row may leave as soon as its sample has an adversary from
its own unit or a lower one. A sample that nothing breaks keeps the last iterate of its last row. The model must treat
samples independently of each other, as networks in eval mode do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .checks import check_logits
from .network import Network
from .rows import NEVER, Row, Rows, make_rows
from .steps import ascent_step

CHECK_EVERY = 10
"""Steps between the looks at what is broken on a GPU, where the host waits for each; a CPU looks at every step."""


@dataclass
class Loop:
    """The ascent. start: (images, draw, index of the first) -> starts; direction: (logits, y[, target]) -> d / d logits
    of what ascends."""

    start: Callable[[torch.Tensor, int, int], torch.Tensor]
    direction: Callable[..., torch.Tensor]
    eps: float
    step_size: float
    steps: int
    norm: str
    any_step: bool


class Search:
    """Runs units on a batch; `x_adv` holds the results, `found` bool [N] which of them were seen to be misclassified.

    network: see network.py; x: images [N, ...]; y: int64 [N]; max_batch: rows that run at once, but never fewer than
    one unit's of one sample; compact False: rows stay although they are done, with the same results.
    """

    def __init__(self, network: Network, x: torch.Tensor, y: torch.Tensor, loop: Loop, max_batch: int,
                 compact: bool = True):
        self._network, self._x, self._y, self._loop = network, x, y, loop
        self._max_batch, self._compact = max_batch, compact
        self._check_every = 1 if x.device.type == "cpu" else CHECK_EVERY
        self.x_adv = x.clone()
        self._best = torch.full((len(x),), NEVER, dtype=torch.int64, device=x.device)  # key of the adversary kept

    @property
    def found(self) -> torch.Tensor:
        return self._best != NEVER

    @property
    def step(self) -> torch.Tensor:
        """int64 [N]: after how many updates each sample's adversary was one, -1 where none was found."""
        updates = (self._best % self._unit_keys).div(self._places, rounding_mode="floor")
        return torch.where(self.found, updates, -1)

    def run(self, units: Sequence[list[Row]]) -> torch.Tensor:
        """All units in their order, each on the samples that those before it left; returns x_adv."""
        rows, first = max(len(unit) for unit in units), 0
        self._places, self._unit_keys = rows, rows * (self._loop.steps + 1)
        while first < len(units):
            left = (~self.found).nonzero().squeeze(1)
            if len(left) == 0:
                break
            together = max(1, min(self._max_batch // (len(left) * rows), len(units) - first))
            some, last = {u: units[u] for u in range(first, first + together)}, first + together == len(units)
            for samples in left.split(max(1, self._max_batch // (rows * together))):
                self._ascend(make_rows(samples, self._x, self._y, some, self._loop.start, last))
            first += together
        return self.x_adv

    def _ascend(self, rows: Rows) -> None:
        loop, granularity = self._loop, max(1, len(rows) // 16)  # few sizes: graphs recorded for them serve again
        for step in range(loop.steps):
            logits, gradient = self._network.gradient(rows.x_adv, lambda logits: self._direction(logits, rows))
            moved = ascent_step(rows.x, rows.x_adv, gradient, loop.eps, loop.step_size, loop.norm)
            if not loop.any_step or step == 0:
                rows.x_adv = moved
                continue
            rows.note(logits, step)
            rows.x_adv = torch.where(per_image(rows.broken, moved), rows.x_adv, moved)
            if self._compact and step % self._check_every == 0 and not self._shrink(rows, granularity):
                return
        self._finish(rows)

    def _direction(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        check_logits(logits, rows.labels[0])
        return self._loop.direction(logits, *rows.labels)

    def _finish(self, rows: Rows) -> None:
        """The verdict on the last update, which nobody needs where every sample keeps its only row anyway."""
        if self._loop.any_step or not bool(rows.last.all()):
            rows.note(self._network.logits(rows.x_adv), self._loop.steps)
            self._keep(rows)
        rest = rows.last & ~self.found[rows.sample]
        self.x_adv[rows.sample[rest]] = rows.x_adv[rest]

    def _shrink(self, rows: Rows, granularity: int) -> bool:
        """Drop rows that are done; False where none is left."""
        if int(rows.broken.sum()) == rows.handled:
            return True
        self._keep(rows)
        rows.handled = int(rows.broken.sum())
        done = rows.broken | (self._best[rows.sample] < (rows.unit + 1) * self._unit_keys)
        alive = len(rows) - int(done.sum())
        size = -(-alive // granularity) * granularity
        if size < len(rows):
            rows.take(done.to(torch.int8).argsort(stable=True)[:size])
            rows.handled = int(rows.broken.sum())
        return alive > 0

    def _keep(self, rows: Rows) -> None:
        """Hand the adversaries of broken rows to their samples, where they come first in the order."""
        self._verify(rows)
        key = rows.unit * self._unit_keys + rows.broken_at.clamp_max(self._loop.steps) * self._places + rows.place
        key = torch.where(rows.broken, key, NEVER)
        self._best.scatter_reduce_(0, rows.sample, key, "amin")
        wins = rows.broken & (key == self._best[rows.sample])
        self.x_adv[rows.sample[wins]] = rows.x_adv[wins]

    def _verify(self, rows: Rows) -> None:
        """Gradients of low precision come with logits of low precision: a success must be one in full precision."""
        if self._network.exact:
            return
        broken = rows.broken.nonzero().squeeze(1)
        if len(broken):
            right = self._network.logits(rows.x_adv[broken]).argmax(1) == rows.labels[0][broken]
            rows.broken_at[broken[right]] = NEVER


def per_image(flags: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[N] -> [N, 1, ...], to go with images [N, ...]."""
    return flags.view(-1, *[1] * (x.dim() - 1))
