"""y = x W^T + b over the last dimension."""

from __future__ import annotations

import torch

from ..low_precision import LowPrecision


class Linear:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT = False, False, True
    overwrite = None

    def __init__(self, module: torch.nn.Linear, weights: LowPrecision | None):
        self.module, self.weights = module, weights

    @property
    def parameters(self):
        return [p for p in (self.module.weight, self.module.bias) if p is not None]

    def forward(self, x):
        dtype, weight = x.dtype, self.module.weight
        bias: torch.Tensor | None = self.module.bias
        if self.weights is not None:
            x, weight = x.to(self.weights.dtype), self.weights(weight)
            bias = None if bias is None else self.weights(bias)
        return torch.nn.functional.linear(x, weight, bias), (x, weight, dtype)

    def part(self, saved, take):
        return take(saved[0]), *saved[1:]

    def backward(self, saved, g, wanted, grads):
        x, weight, dtype = saved
        self._weight_gradient(x, g, grads)
        if grads.takes(self.module.bias):
            grads.add(self.module.bias, g.sum(tuple(range(g.dim() - 1))))
        return ((g @ weight).to(dtype) if wanted[0] else None,), g

    def tangent(self, saved, recorded, t, grads):
        t = t[0].to(saved[0].dtype)
        self._weight_gradient(t, recorded, grads)
        return torch.nn.functional.linear(t, saved[1]), None

    def _weight_gradient(self, x, g, grads):
        if grads.takes(self.module.weight):
            grads.add(self.module.weight, g.flatten(0, -2).t() @ x.flatten(0, -2))
