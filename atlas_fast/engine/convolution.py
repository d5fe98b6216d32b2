"""Convolutions with a double backward of ordinary convolution kernels, for any user's module.

PyTorch's own double backward computes the weight gradient as a forward convolution whose kernel has the image's size:
2 to 42 times slower than a weight gradient on a CPU, and wrong in bfloat16 there at small batches.

With input x, weight w and cotangent g, the form T = <g, conv(x, w)> is linear in each of the three. Its derivatives

    by g: conv(x, w)          by x: the input gradient of (g, w)          by w: the weight gradient of (g, x)

are all that is needed to any order: the gradient of one of them in an operand is the derivative of T by that operand,
with the cotangent in place of what the first was the derivative by.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from .convolution_kernels import convolve, gradients, is_faster

aten = torch.ops.aten
_X, _W, _G = range(3)
_DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CLASSES = (torch.Tensor, torch.nn.Parameter)


class Convolutions(TorchFunctionMode):
    """Inside, conv1d, conv2d and conv3d of the calling thread are recorded as described above; values stay the same.

    PyTorch's own run where no gradient is recorded and where something else takes part that has to see them: tensor
    subclasses, another mode, torch.compile, functional or forward-mode transforms, checkpoints (which run the
    forward pass again, outside of here); for complex and meta tensors; and for transposed convolutions. `faster_only`:
    also wherever the own ones are no faster, where nothing is differentiated twice.
    """

    def __init__(self, faster_only: bool = False):
        super().__init__()
        self._faster_only = faster_only

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _DIMENSIONS and torch.is_grad_enabled() and not _watched():
            arguments = _arguments(_DIMENSIONS[func], *args, **kwargs)
            if arguments is not None and not (self._faster_only and not _is_faster(*arguments)):
                return _convolution(*arguments)
        return func(*args, **kwargs)


def stock_backward(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether PyTorch's own backward of a convolution in `dtype` lies in the graph of `tensor`."""
    stack: list[Any] = [tensor.grad_fn]
    seen: set[Any] = {None}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name().startswith("ConvolutionBackward") and any(m.dtype == dtype for m in node._input_metadata):
            return True
        stack += [child for child, _ in node.next_functions]
    return False


def _watched() -> bool:
    """Whether PyTorch's own convolution has to be called: see `Convolutions`."""
    return (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
            or torch.autograd.forward_ad._current_level >= 0
            or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
            or any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack()))


def _arguments(n, input=None, weight=None, bias=None, stride=1, padding=0, dilation=1, groups=1, **unknown):
    """(x, weight, bias, geometry of aten.convolution), or None for arguments that PyTorch's own has to look at."""
    tensors = [input, weight] if bias is None else [input, weight, bias]
    if unknown or not all(type(t) in _CLASSES and t.layout == torch.strided and t.dtype in _DTYPES and
                          t.device == input.device and t.device.type != "meta" for t in tensors):
        return None
    if input.dim() != n + 2 or weight.dim() != n + 2 or not any(t.requires_grad for t in tensors):
        return None
    stride, dilation = _each(stride, n), _each(dilation, n)
    if padding == "same" and stride == (1,) * n and dilation:
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = [t // 2 for t in total]
        odd = [side for t in reversed(total) for side in (0, t % 2)]
        input = torch.nn.functional.pad(input, odd) if any(odd) else input
    padding = _each(0 if padding == "valid" else padding, n)
    if not (stride and padding and dilation):
        return None
    return input, weight, bias, (stride, padding, dilation, False, (0,) * n, groups)


def _is_faster(x, weight, bias, geometry) -> bool:
    return not torch.is_autocast_enabled(x.device.type) and is_faster(x, weight, geometry)


def _each(value, n: int) -> tuple[int, ...] | None:
    """One number for each of n dimensions; None for what is not a number or n or 1 of them."""
    value = (value,) if isinstance(value, int) else value
    if not isinstance(value, (tuple, list)) or len(value) not in (1, n):
        return None
    return tuple(value) * (n if len(value) == 1 else 1)


def _convolution(x, weight, bias, geometry):
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        # What autocast does below: it leaves float64 alone.
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = (t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (x, weight, bias))
    return _derivative(_G, (x, weight, None), geometry, bias)


def _derivative(by: int, form: tuple, geometry, bias=None) -> torch.Tensor:
    """Of T by the tensor at place `by` of the form (x, w, g), which lends its shape and layout; differentiable."""
    operands = [i for i in (_X, _W, _G) if i != by and form[i].requires_grad]
    with_bias = bias is not None and bias.requires_grad
    if not torch.is_grad_enabled() or not (operands or with_bias) or any(map(_transformed, form)):
        return _kernel(by, form, geometry, bias)
    with torch.no_grad():
        value = _kernel(by, form, geometry, bias)
    others = tuple(None if i == by else t for i, t in enumerate(form))
    shares = [_Share.apply(form[i], bias if i == _W else None, value, i, by, others, geometry) for i in operands]
    if with_bias and _W not in operands:
        shares.append(_BiasShare.apply(bias, value))
    return _Sum.apply((value,), *shares)


def _transformed(t: torch.Tensor | None) -> bool:
    """Whether vmap runs the backward pass (is_grads_batched of autograd.grad is PyTorch's older vmap)."""
    return t is not None and (torch._C._functorch.is_legacy_batchedtensor(t)
                              or torch._C._functorch.is_functorch_wrapped_tensor(t))


def _kernel(by, form, geometry, bias=None):
    x, w, g = form
    if by == _G:
        if any(map(_transformed, form)):
            return torch.convolution(x, w, bias, *geometry)
        return convolve(x, w, bias, geometry)
    return _gradients(form, geometry, (by == _X, by == _W, False))[by]


def _gradients(form, geometry, wanted):
    x, w, g = form
    if any(map(_transformed, form)):
        return aten.convolution_backward.default(g, x, w, (w.shape[0],), *geometry, wanted)
    return gradients(g, x, w, geometry, wanted)


class _Share(torch.autograd.Function):
    """The part of a derivative of T that one operand accounts for, as a node of its own.

    With a node for each operand autograd computes only the gradients that are asked for: no weight gradients while
    an adversary is crafted. A Function of all operands would not know. The value, which nobody reads, takes no memory.
    The bias comes with the weight, since one kernel gives the gradients of both.
    """

    @staticmethod
    def forward(ctx, operand, bias, value, place, by, form, geometry):
        ctx.save_for_backward(*form)
        ctx.place, ctx.by, ctx.geometry = place, by, geometry
        return value.expand(value.shape)

    @staticmethod
    def backward(ctx, cotangent):
        form = list(ctx.saved_tensors)
        form[ctx.by] = cotangent
        with _no_autocast(cotangent.device.type):
            if not ctx.needs_input_grad[1]:
                shares = _derivative(ctx.place, tuple(form), ctx.geometry), None
            elif torch.is_grad_enabled():
                shares = _derivative(ctx.place, tuple(form), ctx.geometry), _over_pixels(cotangent)
            else:
                shares = _gradients(tuple(form), ctx.geometry, (False, True, True))[1:]
        return *shares, None, None, None, None, None


class _BiasShare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, bias, value):
        return value.expand(value.shape)

    @staticmethod
    def backward(ctx, cotangent):
        return _over_pixels(cotangent), None


def _over_pixels(cotangent):
    return cotangent.sum((0, *range(2, cotangent.dim())))


class _Sum(torch.autograd.Function):
    """The value of a derivative of T; its gradient is that of every share."""

    @staticmethod
    def forward(ctx, value, *shares):
        return value[0]  # in a tuple, so that it counts as made here

    @staticmethod
    def backward(ctx, cotangent):
        return None, *(cotangent for _ in ctx.needs_input_grad[1:])


def _no_autocast(device: str) -> contextlib.AbstractContextManager:
    """A backward pass inside of autocast must not cast the tangent's convolution of a float32 layer."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
