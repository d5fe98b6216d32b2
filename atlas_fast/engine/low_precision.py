"""Weights in the precision of convolutions and matrix products, copied once a step instead of once a pass."""

from __future__ import annotations

import torch


class LowPrecision:
    """low(parameter) is the parameter in `dtype`, in its own memory layout.

    A copy is made at first use, by `refresh` (all in one launch), and when the parameter was written to since.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self._copies: dict[torch.Tensor, torch.Tensor] = {}
        self._versions: dict[torch.Tensor, int] = {}

    def __call__(self, parameter: torch.Tensor) -> torch.Tensor:
        copy = self._copies.get(parameter)
        if copy is None or copy.device != parameter.device:
            copy = self._copies[parameter] = parameter.detach().to(self.dtype, copy=True)
        elif self._versions[parameter] != parameter._version:
            copy.copy_(parameter.detach())
        self._versions[parameter] = parameter._version
        return copy

    def refresh(self) -> None:
        """Copy every parameter used so far, whatever its version says: a graph's replays do not count it."""
        current = [p for p, copy in self._copies.items() if copy.device == p.device]
        if current:
            torch._foreach_copy_([self._copies[p] for p in current], [p.detach() for p in current])
            self._versions.update((p, p._version) for p in current)
