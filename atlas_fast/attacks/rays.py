"""RayS (Chen & Gu 2020): a hard-label attack that searches the nearest decision boundary over rays with directions
in {-1, +1}^d, by flipping ever smaller blocks of the direction's signs.

The algorithm is the published program's (uclaml/RayS), with what is peculiar to it: distances d are lengths along
the ray of norm 1, the bisection ends when its interval is at most 1e-3 long; the first direction tried is all -1 at
d = inf, which is the black image; blocks are runs of the flattened [C, H, W] vector; the queries of a bisection that
is under way when they reach the limit are made; an image never fooled counts as far as the white image is.

Each model call here makes one query of every sample, wherever that sample stands in its own search: the program of a
sample is a state machine in tensors, without a look at the device, and the same as if it were alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch

from .checks import at_least_one, check_batch, check_logits, positive
from .network import Network
from .statistics import norm_layers, statistics_kept
from .steps import check_norm
from .survivors import granularity, per_image, survivors

TOLERANCE = 1e-3  # length of the interval at which a bisection ends
CHECK_EVERY = 32  # queries between two looks at how many samples are left; each look waits for the device

_ORDER = {"Linf": torch.inf, "L2": 2}


class RaySResult(NamedTuple):
    """x_final: nearest misclassified image found, [N, ...], at any distance; distance: its norm from x, [N], whose mean
    is the ADBD of the paper; queries: those made, int64 [N]."""

    x_final: torch.Tensor
    distance: torch.Tensor
    queries: torch.Tensor


class RayS:
    """Hard-label attack: only the predicted class is used. Deterministic: it draws no random numbers.

    eps: radius in pixel units; queries: limit per sample (the paper of ATLAS and the leaderboard: 40000); norm: of the
    distance that is compared with eps, "Linf" or "L2". stop_at_eps True (default): a sample is done as soon as a query
    within eps fools, which gives the same robust accuracy for fewer queries; False: every sample uses all its queries,
    as published, which the average decision boundary distance (ADBD) needs; with True that is an upper bound.
    Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, queries: int = 40000, norm: str = "Linf", stop_at_eps: bool = True):
        self.eps = positive(eps, "eps")
        self.queries = at_least_one(queries, "queries")
        self.norm = check_norm(norm)
        self.stop_at_eps = bool(stop_at_eps)

    @property
    def settings(self) -> dict:
        """What a report should say about this attack."""
        return {"eps": self.eps, "norm": self.norm, "queries": self.queries, "tolerance": TOLERANCE,
                "stop_at_eps": self.stop_at_eps}

    def __call__(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
                 rng: torch.Tensor | None = None, sample_offset: int = 0) -> torch.Tensor:
        """x_adv like x: the image found where its distance is at most eps, x elsewhere.

        model: images -> logits [N, C]; x: float images [N, C, H, W] in [0, 1]; y: int64 labels [N]; rng, sample_offset:
        attacks have them in common, here they change nothing. Raises UserError for other inputs, as `search` does.
        """
        result = self.search(model, x, y)
        return torch.where(per_image(result.distance <= self.eps, x), result.x_final, x.detach())

    def search(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor) -> RaySResult:
        """The nearest misclassified image found for every sample, and its distance, which may be more than eps.

        model: images -> logits [N, classes], or a `Network` of it; x: float images [N, ...] in [0, 1]; y: int64 labels
        [N]. The model stays in its mode; evaluate in eval mode.
        Raises UserError for other inputs or a model that returns no logits [N, C].
        """
        check_batch(x, y)
        network, shape = Network(model), x.shape
        x = x.detach().flatten(1)
        blocks = _Blocks(x.shape[1], x.device)
        state = _State.start(x, y)
        result = RaySResult(torch.empty_like(x), torch.empty_like(x[:, 0]), torch.zeros_like(y))
        with statistics_kept(norm_layers(network.model)):
            check_logits(network.logits(x.view(shape)), y)
            while len(state.index):
                for _ in range(CHECK_EVERY):
                    self._query(network, state, blocks, shape[1:])
                state = self._leave(state, result)
        return RaySResult(result.x_final.view(shape), *result[1:])

    def _query(self, network: Network, s: _State, blocks: _Blocks, shape: torch.Size) -> None:
        """One query of every sample and what follows from it."""
        flipped = blocks.mask(s.attempt)
        direction = torch.where(flipped, -s.direction, s.direction)
        radius = torch.where(s.bisecting, (s.low + s.high) / 2, s.radius)
        image = _point(s.x, direction, radius)
        fooled = network.logits(image.view(-1, *shape)).argmax(1) != s.y
        s.queries += ~s.done
        opening = ~s.bisecting  # a query at the best radius: does the attempt deserve a bisection?
        s.low = torch.where(opening, 0, torch.where(fooled, s.low, radius))
        s.high = torch.where(opening, s.radius.clamp(max=blocks.dimension_root), torch.where(fooled, radius, s.high))
        ended = torch.where(opening, ~fooled, s.high - s.low <= TOLERANCE) & ~s.done
        shorter = ended & s.bisecting & (s.high < s.radius)
        s.radius = torch.where(shorter, s.high, s.radius)
        s.direction = torch.where(shorter[:, None], direction, s.direction)
        s.bisecting = torch.where(opening, fooled, ~ended) & ~s.done
        s.attempt = s.attempt + ended
        if self.stop_at_eps:
            near = fooled & ~s.done & (self._distance(image, s.x) <= self.eps)
            s.found = torch.where(near[:, None], image, s.found)
            s.done = s.done | near
        s.done = s.done | (ended & (s.queries >= self.queries))

    def _leave(self, s: _State, result: RaySResult) -> _State:
        """The state of the samples that go on; writes down the results of those that do not, if they are enough."""
        rows = survivors(s.done, granularity(len(result.queries)))
        if rows is None:
            return s
        final = torch.where(s.found.isnan(), _point(s.x, s.direction, s.radius), s.found)
        for total, part in zip(result, (final, self._distance(final, s.x), s.queries), strict=True):
            total[s.index] = part
        return s.rows(rows)

    def _distance(self, image: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(image - x, _ORDER[self.norm], dim=1)


@dataclass
class _State:
    """Where every active sample stands. Per sample: index in the batch; x [n, D]; y; direction [n, D], +-1/sqrt(D);
    radius, the best so far; found [n, D], an image within eps, or NaN; number of the attempt; whether it is bisecting,
    between low and high; queries; done."""

    index: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    direction: torch.Tensor
    radius: torch.Tensor
    found: torch.Tensor
    attempt: torch.Tensor
    bisecting: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    queries: torch.Tensor
    done: torch.Tensor

    @classmethod
    def start(cls, x: torch.Tensor, y: torch.Tensor) -> _State:
        n, dimension = x.shape
        zero, no = x.new_zeros(n), torch.zeros_like(y, dtype=torch.bool)
        return cls(torch.arange(n, device=x.device), x, y, torch.ones_like(x) / x.new_tensor(dimension).sqrt(),
                   torch.full_like(zero, torch.inf), torch.full_like(x, torch.nan), torch.zeros_like(y), no, zero, zero,
                   torch.zeros_like(y), no)

    def rows(self, rows: torch.Tensor) -> _State:
        return _State(*(getattr(self, field.name)[rows] for field in fields(self)))


class _Blocks:
    """Which entries an attempt flips: level l cuts the vector into runs of ceil(D / 2^l), and single entries are
    gone through again and again once they are reached."""

    def __init__(self, dimension: int, device: torch.device):
        edges, level, size = [], 0, dimension
        while size > 1:
            edges += [(start, min(start + size, dimension)) for start in range(0, dimension, size)]
            level += 1
            size = math.ceil(dimension / 2**level)
        self.coarse = len(edges)
        edges += [(start, start + 1) for start in range(dimension)]
        self.edges = torch.tensor(edges, device=device)
        self.dimension, self.dimension_root = dimension, math.sqrt(dimension)
        self.entries = torch.arange(dimension, device=device)

    def mask(self, attempt: torch.Tensor) -> torch.Tensor:
        """bool [n, D] of the attempts' numbers [n]."""
        row = torch.where(attempt < self.coarse, attempt, self.coarse + (attempt - self.coarse) % self.dimension)
        edges = self.edges[row]
        return (self.entries >= edges[:, :1]) & (self.entries < edges[:, 1:])


def _point(x: torch.Tensor, direction: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return (x + radius[:, None] * direction).clamp_(0, 1)
