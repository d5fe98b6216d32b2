"""Broken samples leave the batch: the passes that they would take are saved.

Attacks whose samples do not act on each other (networks in eval mode) may drop rows without changing the others. Sizes
are multiples of a sixteenth of the batch, so that graphs recorded for a few sizes serve all; rows that are done fill
up.
"""

from __future__ import annotations

from dataclasses import fields

import torch


def granularity(samples: int) -> int:
    """The step between the sizes that a batch of so many samples may shrink to."""
    return max(1, samples // 16)


def survivors(done: torch.Tensor, step: int) -> torch.Tensor | None:
    """Rows (int64) to go on with: those that are not done, filled up to a multiple of `step`; None to keep all.

    done: bool [N]. Waits for the device. Empty when all are done.
    """
    alive = len(done) - int(done.sum())
    size = -(-alive // step) * step
    return None if size >= len(done) else done.to(torch.int8).argsort(stable=True)[:size]


def keep_rows(state, rows: torch.Tensor) -> None:
    """Only these rows remain in a dataclass of tensors, or of tuples of tensors, with one row per sample."""
    for field in fields(state):
        value = getattr(state, field.name)
        setattr(state, field.name, tuple(v[rows] for v in value) if isinstance(value, tuple) else value[rows])


def per_image(flags: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[N] -> [N, 1, ...], to go with images [N, ...]."""
    return flags.view(-1, *[1] * (x.dim() - 1))
