"""Changes of shape, and nodes that change nothing."""

from __future__ import annotations


class Identity:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, True, False, ()
    overwrite = None

    def forward(self, x):
        return x, None

    def backward(self, saved, g, wanted, grads):
        return (g,), None

    def tangent(self, saved, recorded, t, grads):
        return t[0], None


class Flatten:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, True, False, ()
    overwrite = None

    def __init__(self, start_dim: int = 0, end_dim: int = -1):
        self.dims = (start_dim, end_dim)

    def forward(self, x):
        y = x.flatten(*self.dims)
        return y, (x.shape, y.shape)

    def backward(self, saved, g, wanted, grads):
        return (g.reshape(saved[0]),), None

    def tangent(self, saved, recorded, t, grads):
        return t[0].reshape(saved[1]), None


class Reshape(Flatten):
    """To sizes that may be computed from the batch's, such as (x.size(0), -1)."""

    def __init__(self):
        pass

    def forward(self, x, *sizes):
        y = x.reshape(*sizes)
        return y, (x.shape, y.shape)
