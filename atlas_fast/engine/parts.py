"""A batch worked off in equal parts, one after another, whose gradients add up to that of the whole batch."""

from __future__ import annotations

import dataclasses
from typing import cast

import torch

from ..attacks.checks import at_least_one
from ..errors import UserError
from ..objectives import Objective


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive samples x, y of a batch; offset: the index of the first within the batch of all processes."""

    x: torch.Tensor
    y: torch.Tensor
    offset: int


class Parts:
    """count: how many there are of each batch. Raises UserError for an objective that ties the samples of a batch."""

    def __init__(self, count: int, objective: Objective):
        self.count = at_least_one(count, "accumulate")
        if self.count > 1 and isinstance(objective, Objective) and "nuclear" in (objective.kl or ""):
            raise UserError(f"{objective.name} ties all samples of a batch by one nuclear norm, so that the parts of a "
                            "batch have another loss than the whole; leave accumulate away")

    def check(self, x: torch.Tensor) -> None:
        """Raises UserError for a batch that cannot be divided equally."""
        if self.count > 1 and x.dim() and len(x) % self.count:
            raise UserError(f"a batch of {len(x)} images cannot be worked off in {self.count} equal parts; its size "
                            f"must be a multiple of accumulate={self.count}")

    def of(self, x: torch.Tensor, y: torch.Tensor, offset: int) -> list[Part]:
        """offset: of the first sample within the batch of all processes."""
        size = len(x) // self.count
        return [Part(a, b, offset + i * size)
                for i, (a, b) in enumerate(zip(x.chunk(self.count), y.chunk(self.count), strict=True))]


def mean_terms(terms: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of each term over equal parts, which is that of the batch."""
    if len(terms) == 1:
        return terms[0]
    # The sum of at least two tensors is one; to mypy it may be the 0 that it begins with.
    return {name: cast(torch.Tensor, sum(one[name] for one in terms)) / len(terms) for name in terms[0]}
