"""What runs at once in a search: rows of one sample, one start and at most one target each."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

NEVER = torch.iinfo(torch.int64).max


@dataclass
class Row:
    """What a unit runs on each of its samples. draw: which random start; target: number of the wrong class, counted
    without the label (class k below the label, k + 1 from there on), or None for a loss without a target."""

    draw: int
    target: int | None = None

    def classes(self, y: torch.Tensor) -> torch.Tensor:
        """int64 [N]: the class that is meant for labels y."""
        assert self.target is not None, "a loss without a target asks for none"
        return self.target + (y <= self.target).long()


@dataclass
class Rows:
    """Tensors with one entry per row. sample: index in the images attacked; unit, place: see `search`; x: the image;
    labels: what the loss takes, y first; broken_at: after how many updates it was misclassified, or NEVER; last:
    whether the sample keeps this row's iterate if nothing breaks it."""

    sample: torch.Tensor
    unit: torch.Tensor
    place: torch.Tensor
    x: torch.Tensor
    x_adv: torch.Tensor
    labels: tuple[torch.Tensor, ...]
    broken_at: torch.Tensor
    last: torch.Tensor
    handled: int = 0  # how many of the broken ones have been looked at

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def broken(self) -> torch.Tensor:
        return self.broken_at != NEVER

    def note(self, logits: torch.Tensor, updates: int) -> None:
        """`logits` are those at x_adv, after so many updates."""
        new = (logits.argmax(1) != self.labels[0]) & ~self.broken
        self.broken_at = torch.where(new, updates, self.broken_at)

    def take(self, rows: torch.Tensor) -> None:
        """Only these rows, by index, remain."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                setattr(self, field.name, tuple(v[rows] for v in value))
            elif isinstance(value, torch.Tensor):
                setattr(self, field.name, value[rows])


def make_rows(samples: torch.Tensor, x: torch.Tensor, y: torch.Tensor, units: dict[int, list[Row]], start,
              last: bool) -> Rows:
    """Every row of every unit on each of `samples`, ascending indices of the images x [N, ...] with labels y.

    start: (images, draw, index of the first of them) -> starts; last: whether these are the last units.
    """
    low, high = int(samples[0]), int(samples[-1]) + 1
    kinds = [(unit, place, row) for unit, rows in units.items() for place, row in enumerate(rows)]
    n, count, own = len(samples), len(kinds), y[samples]
    starts = [start(x[low:high], row.draw, low)[samples - low] for _, _, row in kinds]
    targets = [row.classes(own) for _, _, row in kinds if row.target is not None]
    order = torch.tensor([kind[:2] for kind in kinds], device=x.device).repeat_interleave(n, 0)
    return Rows(sample=samples.repeat(count), unit=order[:, 0], place=order[:, 1],
                x=x[samples].repeat(count, *[1] * (x.dim() - 1)), x_adv=torch.cat(starts),
                labels=(own.repeat(count), *([torch.cat(targets)] if targets else [])),
                broken_at=torch.full((n * count,), NEVER, dtype=torch.int64, device=x.device),
                last=(torch.arange(n * count, device=x.device) >= n * (count - 1)) & last)
