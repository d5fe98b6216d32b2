"""Max and average pooling: linear once the maxima are chosen."""

from __future__ import annotations

import torch

from .unmatched import Unmatched

aten = torch.ops.aten


def _pair(value) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    return pair * 2 if len(pair) == 1 else pair


class MaxPool:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, False, True, ()
    overwrite = None

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        if return_indices:
            raise Unmatched("max pooling that returns indices")
        kernel = _pair(kernel_size)
        self.geometry = (kernel, _pair(stride) if stride else kernel, _pair(padding), _pair(dilation), ceil_mode)

    def forward(self, x):
        y, indices = aten.max_pool2d_with_indices(x, *self.geometry)
        return y, (x, indices)

    def backward(self, saved, g, wanted, grads):
        x, indices = saved
        dx = aten.max_pool2d_with_indices_backward(g, x, *self.geometry, indices) if wanted[0] else None
        return (dx,), None

    def tangent(self, saved, recorded, t, grads):
        indices = saved[1]
        return t[0].flatten(-2).gather(-1, indices.flatten(-2)).view(indices.shape), None


class AvgPool:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, False, True, ()
    overwrite = None

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                 divisor_override=None):
        kernel = _pair(kernel_size)
        self.geometry = (kernel, _pair(stride) if stride else kernel, _pair(padding), ceil_mode, count_include_pad,
                         divisor_override)

    def forward(self, x):
        return aten.avg_pool2d(x, *self.geometry), x

    def backward(self, saved, g, wanted, grads):
        return (aten.avg_pool2d_backward(g, saved, *self.geometry) if wanted[0] else None,), None

    def tangent(self, saved, recorded, t, grads):
        return aten.avg_pool2d(t[0], *self.geometry), None


class AdaptiveAvgPool:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, False, False, ()
    overwrite = None

    def __init__(self, output_size):
        if None in (size := _pair(output_size) if output_size is not None else [None]):
            raise Unmatched(f"adaptive pooling to {output_size}")
        self.size = size

    def forward(self, x):
        return self._apply(x), x

    def backward(self, saved, g, wanted, grads):
        if not wanted[0]:
            return (None,), None
        if self.size == [1, 1]:
            return ((g / saved.shape[-2:].numel()).expand(saved.shape),), None
        return (aten._adaptive_avg_pool2d_backward(g, saved),), None

    def tangent(self, saved, recorded, t, grads):
        return self._apply(t[0]), None

    def _apply(self, x):
        return x.mean((-2, -1), keepdim=True) if self.size == [1, 1] else aten._adaptive_avg_pool2d(x, self.size)
