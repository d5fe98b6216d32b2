"""The convolution and its gradients by the fastest kernel: in float32 on a CPU Winograd's for 3x3 and matrix products
for 1x1, else PyTorch's.

Geometry: (stride, padding, dilation, transposed, output padding, groups), as aten.convolution takes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..ops import winograd_convolution, winograd_weight_gradient
from ..ops.winograd_convolution import has_kernel_for
from . import pointwise

aten = torch.ops.aten
_pytorchs = False


@contextlib.contextmanager
def pytorchs() -> Iterator[None]:
    """Inside, PyTorch's kernels run everywhere: for measurements and tests that compare or count."""
    global _pytorchs
    before, _pytorchs = _pytorchs, True
    try:
        yield
    finally:
        _pytorchs = before


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry) -> torch.Tensor:
    if _is_product(x, weight, geometry):
        return pointwise.convolve(x, weight, bias, geometry[0])
    if _takes_winograd(x, weight, geometry):
        return winograd_convolution(x, weight, bias, geometry[1][0])
    return aten.convolution(x, weight, bias, *geometry)


def is_faster(x: torch.Tensor, weight: torch.Tensor, geometry) -> bool:
    """Whether `convolve` has something better than PyTorch's convolution for images x [N,C,H,W]."""
    return _is_product(x, weight, geometry) or _takes_winograd(x, weight, geometry)


def gradients(g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, geometry, wanted: tuple[bool, bool, bool]):
    """The gradients by (x, weight, bias) of the outputs whose gradient is g; what is not wanted may be None."""
    if _is_product(x, weight, geometry) and g.is_contiguous():
        stride = geometry[0]
        return (pointwise.input_gradient(g, x, weight, stride) if wanted[0] else None,
                pointwise.weight_gradient(g, x, weight, stride) if wanted[1] else None,
                g.sum((0, 2, 3)) if wanted[2] else None)
    padding = _winograd_padding(weight, geometry)
    if padding is None or _pytorchs or not (any(wanted[:2]) and has_kernel_for(x, g.shape)):
        return aten.convolution_backward(g, x, weight, (weight.shape[0],), *geometry, wanted)
    return (winograd_convolution(g, weight, None, 2 - padding, adjoint=True) if wanted[0] else None,
            winograd_weight_gradient(x, g, padding) if wanted[1] else None,
            g.sum((0, 2, 3)) if wanted[2] else None)


def _is_product(x, weight, geometry) -> bool:
    return not _pytorchs and pointwise.is_faster(x, weight, geometry)


def _takes_winograd(x, weight, geometry) -> bool:
    padding = _winograd_padding(weight, geometry)
    if padding is None or _pytorchs or weight.shape[1] != x.shape[1]:  # PyTorch says what is wrong
        return False
    return has_kernel_for(x, (x.shape[0], weight.shape[0], *(n + 2 * padding - 2 for n in x.shape[2:])))


def _winograd_padding(weight, geometry) -> int | None:
    """The padding of a convolution that Winograd's algorithm is for; None for others."""
    stride, padding, dilation, transposed, _, groups = geometry
    plain = (tuple(stride) == tuple(dilation) == (1, 1) and groups == 1 and not transposed
             and tuple(weight.shape[2:]) == (3, 3) and weight.dtype == torch.float32)
    return padding[0] if plain and padding[0] == padding[1] <= 2 else None
