"""Attempts (restarts, targets) of an attack on the samples that the attempts before them left.

A sample keeps the adversary of its first attempt that succeeds. When few samples are left, several attempts run
together, so that a small rest does not leave the device idle: rows of one sample and one attempt. A row may go as soon
as it has an adversary or a lower attempt has one for its sample; a higher attempt's success does not count before the
lower ones are through. So the result is that of one attempt after the other, however the work was cut.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .survivors import granularity, survivors

_NEVER = torch.iinfo(torch.int64).max


class Outcome:
    """x_adv, like x: the adversaries, x where there is none. x: images [N, ...]; through: bool [N], to be left alone.

    granularity: of the number of rows that run at once, see survivors.py.
    """

    def __init__(self, x: torch.Tensor, through: torch.Tensor):
        self.x_adv = x.clone()
        self._first = torch.where(through, -1, _NEVER)  # the attempt whose adversary a sample has
        self._capacity = len(x) - int(through.sum())
        self.granularity = granularity(self._capacity)

    def done(self, sample: torch.Tensor, attempt: torch.Tensor) -> torch.Tensor:
        """bool, for rows of these samples and attempts: whether nothing they could find would count."""
        return attempt >= self._first[sample]

    def note(self, sample: torch.Tensor, attempt: torch.Tensor, fooled: torch.Tensor, adversary: torch.Tensor) -> None:
        """What rows have found: adversary [R, ...] where fooled [R]. Waits for the device."""
        self._first.scatter_reduce_(0, sample, torch.where(fooled, attempt, _NEVER), "amin")
        kept = (fooled & (attempt == self._first[sample])).nonzero().squeeze(1)
        self.x_adv[sample[kept]] = adversary[kept]

    def in_turn(self, attempts: int, run: Callable[[torch.Tensor, torch.Tensor, range], None]) -> torch.Tensor:
        """run(sample, attempt, numbers) until all samples are through or have an adversary; returns x_adv.

        sample, attempt: int64 [R], the rows, of some samples and the attempts in `numbers`: the samples on the first of
        these, then the same ones on the next. `run` reports by `note`.
        """
        first, device = 0, self.x_adv.device
        while first < attempts:
            samples = survivors(self._first != _NEVER, self.granularity)
            if samples is None:
                samples = torch.arange(len(self.x_adv), device=device)
            if len(samples) == 0:
                break
            together = min(max(1, self._capacity // len(samples)), attempts - first)
            numbers = range(first, first + together)
            rows = torch.arange(first, first + together, device=device).repeat_interleave(len(samples))
            run(samples.repeat(together), rows, numbers)
            first += together
        return self.x_adv
