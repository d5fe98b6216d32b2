"""The initial images and the random changes of the Square attack (Andriushchenko et al. 2020, algorithms 2 and 3).

All take raw Philox words, int64 in [0, 2^32), one row per sample, and change each sample in a window of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


class LinfProposal:
    """Squares of x +- eps, one sign per channel; the initial image has vertical stripes of x +- eps.

    Within the ball and the range, adding +-2 eps to an image whose pixels stand at either end and projecting, as
    published, puts the window at x +- eps; so it is written there directly.
    """

    def __init__(self, eps: float, shape: torch.Size):
        self.eps, (self.channels, self.height, self.width) = eps, shape
        self.initial_words, self.words = self.channels * self.width, 2 + self.channels

    def initial(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """x: [n, C, H, W]; words: [n, C W]."""
        stripes = _signs(words, x.dtype).view(len(x), self.channels, 1, self.width)
        return (x + self.eps * stripes).clamp(0, 1)

    def side(self, share: float) -> int:
        """Side of the square that covers this share of the pixels."""
        side = max(round(math.sqrt(share * self.height * self.width)), 1)
        return min(side, self.height, self.width)

    def __call__(self, x: torch.Tensor, current: torch.Tensor, words: torch.Tensor, share: float) -> torch.Tensor:
        """The proposal for current [n, C, H, W]; words: [n, 2 + C]."""
        side = self.side(share)
        window = _window(words[:, 0], words[:, 1], side, self.height, self.width, self.channels)
        values = x.flatten(2).gather(2, window) + self.eps * _signs(words[:, 2:], x.dtype)[:, :, None]
        return current.flatten(2).scatter(2, window, values.clamp_(0, 1)).view_as(x)


class L2Proposal:
    """Moves the perturbation's mass from one square into another, in the form of a positive and a negative bump."""

    def __init__(self, eps: float, shape: torch.Size):
        self.eps, (self.channels, self.height, self.width) = eps, shape
        self.tile = max(self.height // 5, 1)
        self.border = max((self.height - 5 * self.tile) // 2, 0)
        self.rows, self.columns = ((length - self.border) // self.tile for length in (self.height, self.width))
        self.initial_words, self.words = self.rows * self.columns * (1 + self.channels), 5 + self.channels

    def initial(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """A grid of bumps of side H // 5, of eps in all. x: [n, C, H, W]; words: [n, tiles (1 + C)]."""
        n, tile = len(x), self.tile
        words = words.view(n, self.rows, self.columns, 1 + self.channels)
        signs = _signs(words[..., 1:], x.dtype)
        tiles = _bumps(tile, x.dtype, x.device)[words[..., 0] >> 31].view(n, self.rows, self.columns, 1, tile, tile)
        grid = (tiles * signs[..., None, None]).permute(0, 3, 1, 4, 2, 5)
        delta = torch.zeros_like(x)
        delta[:, :, self.border:self.border + self.rows * tile, self.border:self.border + self.columns * tile] = \
            grid.reshape(n, self.channels, self.rows * tile, self.columns * tile)
        return self._at_eps(x, delta.flatten(2))

    def side(self, share: float) -> int:
        """Odd, at least 3, unless the image is smaller."""
        side = max(round(math.sqrt(share * self.height * self.width)), 3)
        return min(side + (side % 2 == 0), self.height, self.width)

    def __call__(self, x: torch.Tensor, current: torch.Tensor, words: torch.Tensor, share: float) -> torch.Tensor:
        """The proposal for current [n, C, H, W]; words: [n, 5 + C].

        Window 1 gets its old form (norm 1) plus the bump (norm 1), window 2 gets 0; per channel, window 1 then has the
        mass that both had, plus an equal part of what current leaves of eps^2.
        """
        side = self.side(share)
        first, second = (_window(words[:, i], words[:, i + 1], side, self.height, self.width, self.channels)
                         for i in (0, 2))
        delta = (current - x).flatten(2)
        unused = (self.eps**2 - delta.square().sum((1, 2))).clamp_min(0)[:, None] / self.channels
        old = delta.gather(2, first)
        delta = delta.scatter(2, first, 0)
        mass = unused + old.square().sum(2) + delta.gather(2, second).square().sum(2)
        bump = _bumps(side, x.dtype, x.device)[words[:, 4] >> 31][:, None]
        new = _unit(bump * _signs(words[:, 5:], x.dtype)[:, :, None] + _unit(old, 2), 2) * mass.sqrt()[:, :, None]
        return self._at_eps(x, delta.scatter(2, second, 0).scatter(2, first, new))

    def _at_eps(self, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        return (x + self.eps * _unit(delta, (1, 2)).view_as(x)).clamp_(0, 1)


PROPOSALS: dict[str, Callable[..., Any]] = {"Linf": LinfProposal, "L2": L2Proposal}


def _signs(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return 1 - 2 * (words >> 31).to(dtype)


def _below(words: torch.Tensor, n: int) -> torch.Tensor:
    """Uniform in 0..n-1; 0 for n = 0."""
    return words * n >> 32


def _window(row, column, side: int, height: int, width: int, channels: int) -> torch.Tensor:
    """Indices [n, C, side^2] of a random square's pixels within [H W].

    As published, the last possible row and column (H - side, W - side) are never drawn.
    """
    steps = torch.arange(side, device=row.device)
    rows = _below(row, height - side)[:, None] + steps
    columns = _below(column, width - side)[:, None] + steps
    pixels = rows[:, :, None] * width + columns[:, None, :]
    return pixels.view(-1, 1, side * side).expand(-1, channels, -1)


def _unit(t: torch.Tensor, dim) -> torch.Tensor:
    return t / (t.square().sum(dim, keepdim=True).sqrt() + 1e-12)


@cache
def _bumps(side: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The change of norm 1 whose upper half is a positive and whose lower half a negative bump, and its transpose:
    [2, side^2] (the paper's equation 2)."""
    half = side // 2
    bump = torch.cat([_bump(half, side), -_bump(side - half, side)])
    bump /= bump.square().sum().sqrt()
    return torch.stack([bump, bump.T]).flatten(1).to(dtype).to(device)


def _bump(height: int, width: int) -> torch.Tensor:
    """Norm 1, [height, width], float64: at Chebyshev distance r from the middle, the sum of 1 / k^2 over k = r+1..n+1,
    where n is half of the longer side."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    distance = torch.maximum(rows[:, None], columns[None, :])
    terms = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).pow(-2)
    bump = terms.flip(0).cumsum(0).flip(0)[distance]
    return bump / bump.square().sum().sqrt()
