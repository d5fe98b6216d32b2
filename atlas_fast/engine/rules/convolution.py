"""y = w * x + b (cross-correlation), any stride, padding, dilation and groups.

The double backward's weight gradient is the ordinary weight gradient of the pair (t, g). PyTorch's own double backward
computes it as a forward convolution whose kernel has the image's size: 1.7 to 42 times slower on a CPU
(research/whole-step.md), and wrong in bfloat16 there at small batches.
"""

from __future__ import annotations

import functools

import torch

from ..convolution_kernels import convolve, gradients
from ..gradients import NONE
from ..low_precision import LowPrecision
from . import input_gradient
from .unmatched import Unmatched


class Convolution:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT = False, False, True
    overwrite = None

    def __init__(self, module: torch.nn.Conv2d, weights: LowPrecision | None):
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise Unmatched(f"a convolution with padding {module.padding!r} and padding_mode {module.padding_mode!r}")
        self.module, self.weights = module, weights
        self.geometry = (module.stride, module.padding, module.dilation, False, (0, 0), module.groups)

    @property
    def parameters(self):
        return [p for p in (self.module.weight, self.module.bias) if p is not None]

    def forward(self, x):
        dtype, weight, bias = x.dtype, self.module.weight, self.module.bias
        if self.weights is not None:
            x, weight = x.to(self.weights.dtype), self.weights(weight)
            bias = None if bias is None else self.weights(bias)
        return convolve(x, weight, bias, self.geometry), (x, weight, dtype)

    def part(self, saved, take):
        return take(saved[0]), *saved[1:]

    def backward(self, saved, g, wanted, grads):
        x, weight, dtype = saved
        dx = self._gradients(x, weight, g, grads, wanted[0])
        return (dx if dx is None else dx.to(dtype),), g

    def tangent(self, saved, recorded, t, grads):
        x, weight, _ = saved
        t = t[0].to(x.dtype)
        self._gradients(t, weight, recorded, grads, False, bias=False)
        return convolve(t, weight, None, self.geometry), None

    def _gradients(self, x, weight, g, grads, input_too: bool, bias: bool = True):
        """Adds the weight gradients of the pair (x, g) to grads; returns the input gradient if asked."""
        module, dx, special = self.module, None, None
        if grads.beside is not None and grads.takes(module.weight):
            grads.beside.run(functools.partial(self._weights, grads, bias), x, weight, g)
            grads, bias = NONE, False
        if input_too and (special := input_gradient.special(module, g)):
            dx = special(g, weight, module, x.shape[2:])
        mask = (input_too and special is None, grads.takes(module.weight), bias and grads.takes(module.bias))
        if any(mask):
            native, dw, db = gradients(g, x, weight, self.geometry, mask)
            grads.add(module.weight, dw)
            grads.add(module.bias, db)
            dx = native if dx is None else dx
        return dx

    def _weights(self, grads, bias, x, weight, g):
        mask = (False, True, bias and grads.takes(self.module.bias))
        _, dw, db = gradients(g, x, weight, self.geometry, mask)
        grads.add(self.module.weight, dw)
        grads.add(self.module.bias, db)
