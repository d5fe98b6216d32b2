"""Changes of shape, and nodes that change nothing."""

from __future__ import annotations

from .unmatched import Unmatched


class Identity:
    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, True, False, ()
    overwrite = None

    def forward(self, x):
        return x, None

    def part(self, saved, take):
        return None

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

    def part(self, saved, take):
        return tuple(map(take, saved))

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


class Permute:
    """Of the dimensions behind the first; dims as in x.permute(0, 2, 3, 1) or x.permute((0, 2, 3, 1))."""

    KEEPS_OUTPUT, VIEW, OWNS_ADJOINT, parameters = False, True, False, ()
    overwrite = None

    def __init__(self, *dims):
        dims = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
        if not all(isinstance(d, int) for d in dims) or sorted(d % len(dims) for d in dims) != list(range(len(dims))):
            raise Unmatched(f"a permutation to {dims}")
        self.dims = tuple(d % len(dims) for d in dims)
        if self.dims[0] != 0:
            raise Unmatched(f"a permutation to {dims}, which moves the samples")
        self.inverse = tuple(self.dims.index(d) for d in range(len(dims)))

    def forward(self, x):
        return x.permute(self.dims), None

    def part(self, saved, take):
        return None

    def backward(self, saved, g, wanted, grads):
        return (g.permute(self.inverse),), None

    def tangent(self, saved, recorded, t, grads):
        return t[0].permute(self.dims), None
