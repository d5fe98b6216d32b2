"""What a sweep says while it works: a line for every beginning and end, and on a terminal a bar with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from . import cost
from .execute import Child
from .runs import Run, Stage

_LOOK_EVERY = 2.0  # seconds between two looks into the folders


class Progress:
    """Counts passes (see `cost`); what earlier starts had done does not count for the speed."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = list(runs)
        self.totals = {run: cost.total(run) for run in self.runs}
        self.total = sum(self.totals.values())
        self.finished = {run: min(cost.done(run), self.totals[run]) for run in self.runs}
        self.begun_with, self.begun = sum(self.finished.values()), time.monotonic()
        self._looked, self._waiting = 0.0, set[Run]()
        self._drawn = sys.stderr.isatty()
        self.bar = tqdm(total=self.total, initial=self.begun_with, dynamic_ncols=True, disable=not self._drawn,
                        leave=False, smoothing=0,
                        bar_format="{percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}")

    def started(self, child: Child) -> None:
        where = f" on {child.device}" if child.device else ""
        self._say(f"{child.run}: {child.stage.name}{where}; {child.run.folder}")

    def ended(self, run: Run, stage: Stage) -> None:
        self._update(run)
        self._say(f"{run}: {stage.name} finished; {self.left()}")

    def failed(self, run: Run, why: str) -> None:
        self._leave_out(run)
        self._say(f"{run}: FAILED: {why}")

    def waiting(self, run: Run) -> None:
        if run not in self._waiting:
            self._waiting.add(run)
            self._say(f"{run}: another process is at it; waiting for its end")

    def look(self, children: Sequence[Child]) -> None:
        """Every two seconds, read how far the children are."""
        if not self._drawn or time.monotonic() - self._looked < _LOOK_EVERY:
            return
        self._looked = time.monotonic()
        for child in children:
            self._update(child.run)
        self.bar.set_postfix_str(", ".join(f"{child.run} ({child.stage.name})" for child in children), refresh=False)
        self.bar.n = sum(self.finished.values())
        self.bar.refresh()

    def left(self) -> str:
        """"about 3 h 20 min left" at the speed of this start."""
        here, elapsed = sum(self.finished.values()) - self.begun_with, time.monotonic() - self.begun
        remaining = self.total - sum(self.finished.values())
        if here <= 0 or remaining <= 0:
            return f"{elapsed:.0f} s so far"
        return f"at most about {cost.duration(elapsed * remaining / here)} left"

    def close(self) -> None:
        self.bar.close()

    def _update(self, run: Run) -> None:
        self.finished[run] = min(cost.done(run), self.totals[run])

    def _leave_out(self, run: Run) -> None:
        self._update(run)
        self.total += self.finished[run] - self.totals[run]
        self.totals[run] = self.finished[run]
        self.bar.total = self.total

    def _say(self, line: str) -> None:
        self.bar.write(line, file=sys.stdout)
        sys.stdout.flush()
