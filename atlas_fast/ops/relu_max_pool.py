"""ReLU and max pooling in one pass, its adjoint and its tangent:

    y = max_pool2d(relu(x)) = relu(max_pool2d(x)),   D = diag(1 where a window chose the pixel and y > 0)

per window. What the passes after the forward one need of x is which pixel each window chose: its code, 8 bits

    code = row * kernel[1] + column in the window of the first largest pixel;   NONE = 255 where y = 0.

The rectified image is never stored, nor are 64-bit indices, and neither x nor y is needed again. NaN is the largest
number, the last of several in a window, and lets gradients through, as in PyTorch.
"""

from collections.abc import Sequence

import torch

from ..errors import UserError
from ._arguments import FLOATS, check_tensors, compute_dtype, whole
from ._registry import define, has_kernel

NONE = 255
aten = torch.ops.aten


def relu_max_pool_reference(x, kernel, stride, padding, dilation, ceil_mode):
    """The definition: (y, codes), contiguous or channels-last as x is."""
    y, indices = aten.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil_mode)
    top, left = _corners(y.shape, x.device, stride, padding)
    row = (indices // x.shape[-1] - top) // dilation[0]
    column = (indices % x.shape[-1] - left) // dilation[1]
    codes = torch.where(y <= 0, NONE, row * kernel[1] + column).to(torch.uint8)
    return y.relu().contiguous(memory_format=_format(x)), codes.contiguous(memory_format=_format(x))


def relu_max_pool_backward_reference(g, codes, size, kernel, stride, padding, dilation):
    """dx [N,C,*size]: each g goes to the pixel that its window chose."""
    wide = g.to(compute_dtype(g.dtype)).masked_fill(codes == NONE, 0)
    dx = wide.new_zeros(*g.shape[:2], size[0] * size[1])
    dx.scatter_add_(-1, _indices(codes, size[1], kernel, stride, padding, dilation).flatten(-2), wide.flatten(-2))
    return dx.unflatten(-1, size).to(g.dtype).contiguous(memory_format=_format(codes))


def relu_max_pool_tangent_reference(t, codes, kernel, stride, padding, dilation):
    """t [N,C,H,W] at the pixels that the windows chose, 0 where they chose none."""
    indices = _indices(codes, t.shape[-1], kernel, stride, padding, dilation)
    out = t.flatten(-2).gather(-1, indices.flatten(-2)).view(codes.shape).masked_fill(codes == NONE, 0)
    return out.contiguous(memory_format=_format(codes))


def _format(t):
    last = t.numel() and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _corners(shape, device, stride, padding):
    """Row and column of the first pixel of the windows: [H, 1] and [W]."""
    top, left = (torch.arange(n, device=device) * s - p for n, s, p in zip(shape[-2:], stride, padding, strict=True))
    return top[:, None], left


def _indices(codes, width, kernel, stride, padding, dilation):
    """Index of the chosen pixel in its plane; 0 where there is none."""
    top, left = _corners(codes.shape, codes.device, stride, padding)
    code = codes.to(torch.int64)
    row, column = top + code // kernel[1] * dilation[0], left + code % kernel[1] * dilation[1]
    return (row * width + column).masked_fill(codes == NONE, 0)


def _fake(x, kernel, stride, padding, dilation, ceil_mode):
    y, _ = aten.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil_mode)
    y = torch.empty_like(y, memory_format=_format(x))
    return y, torch.empty_like(y, dtype=torch.uint8)


def _fake_backward(g, codes, size, kernel, stride, padding, dilation):
    return torch.empty((*g.shape[:2], *size), dtype=g.dtype, device=g.device, memory_format=_format(codes))


def _fake_tangent(t, codes, kernel, stride, padding, dilation):
    return torch.empty(codes.shape, dtype=t.dtype, device=t.device, memory_format=_format(codes))


_WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation"
_op = define("relu_max_pool", f"(Tensor x, {_WINDOW}, bool ceil_mode) -> (Tensor, Tensor)", relu_max_pool_reference,
             _fake, triton=False)
_backward = define("relu_max_pool_backward", f"(Tensor g, Tensor codes, int[] size, {_WINDOW}) -> Tensor",
                   relu_max_pool_backward_reference, _fake_backward, triton=False)
_tangent = define("relu_max_pool_tangent", f"(Tensor t, Tensor codes, {_WINDOW}) -> Tensor",
                  relu_max_pool_tangent_reference, _fake_tangent, triton=False)


def has_kernel_for(x: torch.Tensor, kernel) -> bool:
    """Whether a compiled kernel would run on x; elsewhere PyTorch's pooling is faster than this reference."""
    return (x.device.type == "cpu" and has_kernel("relu_max_pool", "CPU") and x.dtype in FLOATS and x.dim() == 4
            and kernel[0] * kernel[1] <= NONE)


def _check_pair(what, name, pair):
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(whole(n, 0) and n < 2**31 for n in pair):
        raise UserError(f"{what} needs {name} as a pair (height, width) of whole numbers below 2^31, got {pair!r}")


def _check(x, what, kernel, stride, padding, dilation):
    check_tensors(what, x)
    for name, pair in (("kernel", kernel), ("stride", stride), ("padding", padding), ("dilation", dilation)):
        _check_pair(what, name, pair)
    if x.dtype not in FLOATS or x.dim() != 4:
        raise UserError(f"{what} needs float32, float64 or bfloat16 images [N,C,H,W], got {list(x.shape)} {x.dtype}")
    if kernel[0] * kernel[1] > NONE:
        raise UserError(f"{what} needs windows of at most {NONE} pixels, got {kernel[0]}x{kernel[1]}")


def _check_codes(values, codes, what, *window):
    _check(values, what, *window)
    check_tensors(what, codes)
    if codes.dtype != torch.uint8 or codes.dim() != 4 or codes.shape[:2] != values.shape[:2]:
        raise UserError(f"{what} needs the uint8 codes [N,C,h,w] of relu_max_pool, got {list(codes.shape)} "
                        f"{codes.dtype} for {list(values.shape)}")


def relu_max_pool(x: torch.Tensor, kernel, stride, padding=(0, 0), dilation=(1, 1),
                  ceil_mode: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, codes): max_pool2d(relu(x)) and which pixel each window chose; not differentiable by autograd.

    x: [N,C,H,W], float32, float64 or bfloat16; contiguous and channels-last are read as they lie, and so are the
    results. kernel, stride, padding, dilation: pairs (height, width) as in max_pool2d, kernel of at most 255 pixels.
    Raises UserError for another shape, dtype or a larger kernel, RuntimeError for a geometry that max_pool2d refuses.
    """
    _check(x, "relu_max_pool", kernel, stride, padding, dilation)
    return _op(x.detach(), kernel, stride, padding, dilation, ceil_mode)


def relu_max_pool_backward(g: torch.Tensor, codes: torch.Tensor, size, kernel, stride, padding=(0, 0),
                           dilation=(1, 1)) -> torch.Tensor:
    """The adjoint of x, [N,C,*size], of g, the adjoint of y; the gradients of a pixel are summed in float32 (float64).

    codes: as relu_max_pool returned them, for the same windows; size: (H, W) of x. Layout as codes.
    Raises UserError for other shapes or dtypes.
    """
    _check_codes(g, codes, "relu_max_pool_backward", kernel, stride, padding, dilation)
    _check_pair("relu_max_pool_backward", "size", size)
    if g.shape != codes.shape:
        raise UserError(f"relu_max_pool_backward needs g and codes of one shape, got {list(g.shape)} and "
                        f"{list(codes.shape)}")
    return _backward(g.detach(), codes, size, kernel, stride, padding, dilation)


def relu_max_pool_tangent(t: torch.Tensor, codes: torch.Tensor, kernel, stride, padding=(0, 0),
                          dilation=(1, 1)) -> torch.Tensor:
    """The tangent of y for the tangent t [N,C,H,W] of x; the adjoint of relu_max_pool_backward in g. Layout as codes.

    codes: as relu_max_pool returned them, for the same windows. Raises UserError for other shapes or dtypes.
    """
    _check_codes(t, codes, "relu_max_pool_tangent", kernel, stride, padding, dilation)
    return _tangent(t.detach(), codes, kernel, stride, padding, dilation)
