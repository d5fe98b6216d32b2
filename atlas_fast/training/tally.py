"""The means of an epoch's terms, over the steps that were finite; a run of others ends the training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..errors import UserError

EVERY = 100  # steps between two looks; each look waits for the device
IN_A_ROW = 20  # steps that are not finite, one after another, that end the training
SHARE = 0.1  # of an epoch's steps, above which they do so too, ...
FEW = 1  # ... but never so few, though that may be much of a short epoch


class Tally:
    """A step is not finite where its loss, a term, or (then the step was skipped) a gradient is NaN or infinite.

    Call `start` before an epoch, `add` after each step, `means` at its end. The terms stay on the device, 100 steps at
    a time. total: steps that were not finite in the whole run; first: where the present row of them began, None where
    the last step was finite. average: over the processes that share the run, all of which then decide alike.
    """

    def __init__(self, average: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows):
        self._average = average
        self.total = self.in_a_row = 0
        self.first: dict | None = None

    def start(self, epoch: int, steps: int, skipped: torch.Tensor) -> None:
        """steps: of this epoch; skipped: as in `add`, now."""
        self.epoch, self.steps, self.seen, self.bad = epoch, steps, 0, 0
        self.skipped, self.sums = int(skipped), list[float]()
        self.names: tuple[str, ...] = ()
        self.worst: dict | None = None
        self._rows: torch.Tensor | None = None
        self._filled = 0

    def add(self, terms: dict[str, torch.Tensor], skipped: torch.Tensor) -> bool:
        """Count a step. terms: 0-d on the device; skipped: the step's counter, 0-d on the device.

        Whether something is to be said: a first step of the run was not finite. UserError: too many were not.
        """
        values = list(terms.values())
        row = torch.stack([*values, skipped.to(values[0].dtype)])
        if self._rows is None:
            if not self.names:
                self.names, self.sums = tuple(terms), [0.0] * len(values)
            self._rows = torch.empty(EVERY, len(row), dtype=row.dtype, device=row.device)
        self._rows[self._filled].copy_(row)
        self._filled += 1
        return self._filled == EVERY and self._look()

    def means(self) -> tuple[dict[str, float], bool]:
        """The means of the terms, and whether something is to be said, as in `add`. UserError as in `add`."""
        say, counted = self.look(), self.seen - self.bad
        if not counted:  # an epoch of one step
            self._stop(f"all steps of epoch {self.epoch} were not finite", self.worst)
        return {name: total / counted for name, total in zip(self.names, self.sums, strict=True)}, say

    def look(self) -> bool:
        """Count the steps that are still on the device, as the 100th would. Returns and UserError as in `add`."""
        return self._filled > 0 and self._look()

    def _look(self) -> bool:
        before = self.total
        rows = [] if self._rows is None else self._average(self._rows[:self._filled]).tolist()
        for *values, count in rows:
            self.seen, skipped = self.seen + 1, round(count)
            wrong = [name for name, value in zip(self.names, values, strict=True) if not math.isfinite(value)]
            if wrong or skipped > self.skipped:
                self._not_finite(wrong)
            else:
                self.in_a_row, self.first = 0, None
                self.sums = [total + value for total, value in zip(self.sums, values, strict=True)]
            self.skipped = skipped
        self._filled = 0
        if self.bad > max(FEW, SHARE * self.steps):
            self._stop(f"{self.bad} of the {self.steps} steps of epoch {self.epoch} were not finite", self.worst)
        return before == 0 and self.total > 0

    def _not_finite(self, wrong: list[str]) -> None:
        parts = [name for name in wrong if name != "loss"] or wrong or ["a gradient"]
        place: dict = {"epoch": self.epoch, "batch": self.seen, "terms": parts}
        self.bad, self.total, self.in_a_row = self.bad + 1, self.total + 1, self.in_a_row + 1
        self.first = self.first or place
        self.worst = self.worst or place
        if self.in_a_row >= IN_A_ROW:
            self._stop(f"{self.in_a_row} steps in a row were not finite", self.first)

    def _stop(self, what: str, first: dict | None) -> None:
        raise UserError(f"{what}, the first at {place(first)}; lower --lr or --alpha, what was saved before stays")

    @property
    def sentence(self) -> str:
        return f"{place(self.worst)} was not finite; such steps are skipped and counted"

    def inside(self) -> dict:
        """What is known of the epoch so far; after `look`."""
        return {name: getattr(self, name) for name in ("seen", "bad", "names", "sums", "worst")}

    def go_on(self, inside: dict) -> None:
        """After `start`: the epoch's first steps were these."""
        self.seen, self.bad, self.worst = inside["seen"], inside["bad"], inside["worst"]
        self.names, self.sums = tuple(inside["names"]), list(inside["sums"])

    def state_dict(self) -> dict:
        return {"total": self.total, "in_a_row": self.in_a_row, "first": self.first}

    def load_state_dict(self, state: dict) -> None:
        self.total, self.in_a_row, self.first = state["total"], state["in_a_row"], state["first"]


def place(found: dict | None) -> str:
    """E.g. "batch 3 of epoch 2 (term: kl)"."""
    assert found is not None  # there was a step that was not finite
    return f"batch {found['batch']} of epoch {found['epoch']} (term: {', '.join(found['terms'])})"
