"""Ctrl-C and SIGTERM end a run between two steps, where it can be saved; several processes end at the same step."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from ..engine import Ranks
from ..errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PACE = 2.0
"""Seconds between two questions of several processes to each other, each of which waits for the device: far below a
thousandth of the time, and well within the 30 seconds that torchrun, Slurm and Kubernetes leave."""


class Stopping:
    """`with Stopping(alone) as stopping`: the signals are noted in `stopping.asked` (the signal's number, or None)
    instead of ending the process; a second Ctrl-C ends it nevertheless.

    alone: whether no other process shares the run (torchrun hands each of its processes a Ctrl-C that the terminal has
    sent them already). Signals that are ignored stay so (a job in the background), and threads other than the main one
    cannot receive any.
    """

    def __init__(self, alone: bool = True):
        self.asked: int | None = None
        self._alone, self._now = alone, False
        self._before: dict[signal.Signals, Any] = {}  # the handlers

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal (or one that has come already) raises Interrupted where the program is, if it is alone. Its
        message is left to whoever knows what was saved."""
        self._now = True
        try:
            if self._alone and self.asked is not None:
                raise Interrupted("", self.asked)
            yield
        finally:
            self._now = False

    def _note(self, number: int, _) -> None:
        again, self.asked = self.asked is not None, number
        if self._alone and (self._now or again and number == signal.SIGINT):
            self._now = False  # a further one must not interrupt the saving
            raise Interrupted("", number)


class Agreement:
    """What any process was asked for, all of them do after the same step.

    They ask each other every so many steps, about every `PACE` seconds by the clock of the first; in between a step
    waits for nobody. One process alone knows at once.
    """

    def __init__(self, ranks: Ranks, device: torch.device):
        self._ranks, self._device = ranks, device
        self._every, self._steps, self._asked = 1, 0, time.perf_counter()

    def __call__(self, stop: int | None, due: bool, now: bool = False) -> tuple[int | None, bool]:
        """(the signal's number by which to stop, or None; whether to save). Called by all processes after each step.

        stop: asked of this process; due: whether the first process thinks it time to save; now: ask in any case, which
        all processes want or none."""
        if self._ranks.size == 1:
            return stop, due
        self._steps += 1
        if self._steps < self._every and not now:
            return None, False
        passed = max(time.perf_counter() - self._asked, 1e-6)
        every = min(2 * self._every, max(1, int(self._steps * PACE / passed)))
        mine = [stop or 0, due, every] if self._ranks.leads else [stop or 0, 0, 0]
        # One-hot by signal, so that a sum tells which, whoever was asked.
        asked = [float(mine[0] == number) for number in SIGNALS]
        answer = self._ranks.add(torch.tensor([*asked, *map(float, mine[1:])], device=self._device)).tolist()
        self._every, self._steps, self._asked = int(answer[-1]), 0, time.perf_counter()
        found = [number for number, count in zip(SIGNALS, answer, strict=False) if count]
        return (found[-1] if found else None), bool(answer[-2])
