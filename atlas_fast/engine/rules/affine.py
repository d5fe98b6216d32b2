"""c x, x / c and x - c, c - x with a constant: a number, a buffer, or a value computed from buffers and sizes."""

from __future__ import annotations

from .unmatched import Unmatched


class Affine:
    """y = factor(x) + a constant, applied by `operation`; factor is the linear part."""

    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, False, False, ()
    overwrite = None

    def __init__(self, operation, linear):
        self.operation, self.linear = operation, linear

    @classmethod
    def add(cls):
        return cls(lambda x, c: x + c, lambda t, c: t)

    @classmethod
    def subtract(cls, reflected: bool = False):
        if reflected:
            return cls(lambda x, c: c - x, lambda t, c: -t)
        return cls(lambda x, c: x - c, lambda t, c: t)

    @classmethod
    def multiply(cls, reflected: bool = False):
        return cls(lambda x, c: x * c, lambda t, c: t * c)

    @classmethod
    def divide(cls, reflected: bool = False):
        if reflected:
            raise Unmatched("a division by activations")
        return cls(lambda x, c: x / c, lambda t, c: t / c)

    def forward(self, x, c):
        y = self.operation(x, c)
        return y, (c, x.shape, x.dtype, y.shape, y.dtype)

    def part(self, saved, take):
        c, shape, dtype, out_shape, out_dtype = saved
        return c, take(shape), dtype, take(out_shape), out_dtype

    def backward(self, saved, g, wanted, grads):
        c, shape, dtype, _, _ = saved
        return (self.linear(g, c).sum_to_size(shape).to(dtype) if wanted[0] else None,), None

    def tangent(self, saved, recorded, t, grads):
        c, _, _, shape, dtype = saved
        return self.linear(t[0], c).expand(shape).to(dtype), None
