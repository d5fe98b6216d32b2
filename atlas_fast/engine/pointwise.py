"""1x1 convolutions as matrix products, in float32 on a CPU with contiguous images: y[n] = W x[n], strided ones on every
other pixel.

oneDNN brings contiguous images into blocks of channels and back, which takes longer than these few products. Measured
on one core of a Xeon with AVX-512 (batch 16; ms by PyTorch's convolution / here):

    in, size, out, stride      forward          input gradient     weight gradient
     16,  32, 128,      1      10.8 / 7.7        5.8 /  3.4         9.9 / 2.6
    128,  32, 256,      2       8.6 / 6.0       29.5 / 12.3        11.3 / 7.3
    256,  16, 512,      2       6.9 / 5.9       11.0 /  6.5         7.0 / 6.0
    512,   2, 512,      1       1.4 / 2.8        1.4 /  3.2         2.3 / 1.7    not worth it
"""

from __future__ import annotations

import torch

_LEAST_PIXELS, _MOST_CHANNELS = 64, 512


def is_faster(x: torch.Tensor, weight: torch.Tensor, geometry) -> bool:
    """Whether this is a 1x1 convolution of images [N,C,H,W] that these functions are faster for."""
    stride, padding, _, transposed, _, groups = geometry
    if (x.dim() != 4 or tuple(weight.shape[1:]) != (x.shape[1], 1, 1) or groups != 1 or transposed
            or tuple(padding) != (0, 0) or x.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32
            or not x.is_contiguous()):
        return False
    pixels = -(-x.shape[2] // stride[0]) * -(-x.shape[3] // stride[1])
    return len(x) > 0 and pixels >= _LEAST_PIXELS and max(weight.shape[:2]) <= _MOST_CHANNELS


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride) -> torch.Tensor:
    """conv2d(x, weight, bias, stride), contiguous."""
    seen = _seen(x, stride)
    filters = weight.flatten(1).expand(len(x), -1, -1)
    y = torch.bmm(filters, seen.flatten(2)) if bias is None else torch.baddbmm(bias[:, None], filters, seen.flatten(2))
    return y.unflatten(2, seen.shape[2:])


def input_gradient(g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride) -> torch.Tensor:
    """Like x; g: the gradient of the outputs."""
    dx = torch.bmm(weight.flatten(1).t().expand(len(g), -1, -1), g.flatten(2)).unflatten(2, g.shape[2:])
    if tuple(stride) == (1, 1):
        return dx
    full = torch.zeros_like(x)
    _seen(full, stride, copy=False).copy_(dx)
    return full


def weight_gradient(g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride) -> torch.Tensor:
    """Like the weight, contiguous."""
    start = x.new_empty(weight.shape[:2])
    return torch.addbmm(start, g.flatten(2), _seen(x, stride).flatten(2).transpose(1, 2), beta=0)[:, :, None, None]


def _seen(x, stride, copy: bool = True):
    """The pixels that the kernel meets."""
    if tuple(stride) == (1, 1):
        return x
    x = x[:, :, ::stride[0], ::stride[1]]
    return x.contiguous() if copy else x
