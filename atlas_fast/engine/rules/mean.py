"""Mean over some dimensions."""

from __future__ import annotations

from .unmatched import Unmatched


class Mean:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, False, False, ()
    overwrite = None

    def __init__(self, dim=None, keepdim: bool = False):
        if dim is None:
            raise Unmatched("a mean over everything")
        self.dims, self.keepdim = ((dim,) if isinstance(dim, int) else tuple(dim)), keepdim

    def forward(self, x):
        return x.mean(self.dims, keepdim=self.keepdim), x.shape

    def part(self, saved, take):
        return take(saved)

    def backward(self, saved, g, wanted, grads):
        if not wanted[0]:
            return (None,), None
        kept, count = list(saved), 1
        for dim in self.dims:
            count, kept[dim] = count * saved[dim], 1
        return ((g / count).reshape(kept).expand(saved),), None

    def tangent(self, saved, recorded, t, grads):
        return t[0].mean(self.dims, keepdim=self.keepdim), None
