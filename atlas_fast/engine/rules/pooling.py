"""Max and average pooling: linear once the maxima are chosen. Max pooling may take a ReLU before it along."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...ops.relu_max_pool import has_kernel_for, relu_max_pool, relu_max_pool_backward, relu_max_pool_tangent
from .unmatched import Unmatched

aten = torch.ops.aten


def _pair(value) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    return pair * 2 if len(pair) == 1 else pair


class MaxPool:
    VIEW, OWNS_ADJOINT, parameters = False, True, ()
    overwrite = None

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        if return_indices:
            raise Unmatched("max pooling that returns indices")
        kernel = _pair(kernel_size)
        self.geometry = (kernel, _pair(stride) if stride else kernel, _pair(padding), _pair(dilation), ceil_mode)
        self.relu = False  # max_pool(relu(x)), set by the graph

    @property
    def KEEPS_OUTPUT(self):
        return self.relu  # where PyTorch pools, the output says which windows the ReLU lets through

    def forward(self, x):
        if self.relu and has_kernel_for(x, self.geometry[0]):
            y, codes = relu_max_pool(x, *self.geometry)
            return y, _Codes(codes, x.shape[-2:])
        y, indices = aten.max_pool2d_with_indices(x, *self.geometry)
        if self.relu:
            y.relu_()  # of the maxima: a quarter of the elements, or fewer
        return y, (x, indices, y if self.relu else None)

    def part(self, saved, take):
        if isinstance(saved, _Codes):
            return _Codes(take(saved.codes), saved.size)
        return tuple(None if value is None else take(value) for value in saved)

    def backward(self, saved, g, wanted, grads):
        if not wanted[0]:
            return (None,), None
        if isinstance(saved, _Codes):
            return (relu_max_pool_backward(g, *saved, *self.geometry[:4]),), None
        x, indices, y = saved
        if self.relu:
            g = aten.threshold_backward(g, y, 0)
        return (aten.max_pool2d_with_indices_backward(g, x, *self.geometry, indices),), None

    def tangent(self, saved, recorded, t, grads):
        if isinstance(saved, _Codes):
            return relu_max_pool_tangent(t[0], saved.codes, *self.geometry[:4]), None
        _, indices, y = saved
        out = t[0].flatten(-2).gather(-1, indices.flatten(-2)).view(indices.shape)
        return aten.threshold_backward(out, y, 0) if self.relu else out, None


class _Codes(NamedTuple):
    """What ops.relu_max_pool leaves: neither the input nor 64-bit indices are kept."""

    codes: torch.Tensor
    size: torch.Size


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

    def part(self, saved, take):
        return take(saved)

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

    def part(self, saved, take):
        return take(saved)

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
