"""3x3 convolutions of stride 1 by Winograd's algorithm F(4x4, 3x3), for float32 on a CPU:

    y = A^T [(G w G^T) . (B^T d B)] A     for every tile d of 6x6 pixels, which gives 4x4 outputs,

36 multiplications for each pair of channels in place of 144 (Lavin and Gray 2016, "Fast algorithms for convolutional
neural networks"). The input gradient is the same with the kernels turned round, the weight gradient its adjoint in w.

The interpolation points are 0, +-3/4, +-3/2 and infinity: with 64 channels the relative error is 0.8e-6, with the usual
0, +-1, +-2 it is 1.7e-6, and 0.2e-6 to 0.4e-6 for oneDNN's direct convolution. An infinite or NaN pixel reaches all
outputs of its tiles. The kernels are in `csrc/cpu/winograd_convolution.h`.
"""

import functools
from collections.abc import Sequence

import torch

from .._extension import build_info
from ..errors import UserError
from ._arguments import check_tensors
from ._registry import define, has_kernel

aten = torch.ops.aten
_ONES, _ZEROS = (1, 1), (0, 0)


def winograd_convolution_reference(x, weight, bias, padding, adjoint):
    """The definition: a cross-correlation, with weights turned round and transposed where adjoint; laid out as x is."""
    if adjoint:
        weight = weight.flip(2, 3).transpose(0, 1)
    y = aten.convolution(x, weight, bias, _ONES, (padding, padding), _ONES, False, _ZEROS, 1)
    return y.contiguous(memory_format=_format(x))


def winograd_weight_gradient_reference(x, g, padding):
    """dw [F,C,3,3] = sum over samples and outputs of g times the pixels under the kernel."""
    weight = x.new_empty(g.shape[1], x.shape[1], 3, 3)
    _, dw, _ = aten.convolution_backward(g, x, weight, None, _ONES, (padding, padding), _ONES, False, _ZEROS, 1,
                                         (False, True, False))
    return dw.contiguous()


def _format(x):
    last = x.numel() and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _fake(x, weight, bias, padding, adjoint):
    size = (x.shape[0], weight.shape[1 if adjoint else 0], *(n + 2 * padding - 2 for n in x.shape[2:]))
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=_format(x))


def _fake_weight_gradient(x, g, padding):
    return x.new_empty(g.shape[1], x.shape[1], 3, 3)


_op = define("winograd_convolution", "(Tensor x, Tensor weight, Tensor? bias, int padding, bool adjoint) -> Tensor",
             winograd_convolution_reference, _fake, triton=False)
_weight_gradient = define("winograd_weight_gradient", "(Tensor x, Tensor g, int padding) -> Tensor",
                          winograd_weight_gradient_reference, _fake_weight_gradient, triton=False)


def has_kernel_for(x: torch.Tensor, outputs: Sequence[int]) -> bool:
    """Whether a compiled kernel would run on images x [N,C,H,W] and be faster than PyTorch's convolution to `outputs`.

    Measured with 16 to 512 channels and 4x4 to 32x32 pixels on one core of a Xeon, against oneDNN for the same
    instructions: from 8 tiles on AVX-512 is mostly 1.2 to 3 times as fast, AVX2 1.3 to 2.9 times; with 4 tiles it is
    0.8 to 1.9 times, and plain C++ 0.55 to 1.1. Large images with few channels do not fit in the cache: 1.4 times at 32
    channels of 128x128 and 1.2 to 2.0 at 64 of 224x224, but 0.7 to 1.1 at 16 of 224x224.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.dim() != 4 or min(outputs[2:]) < 4:
        return False
    channels, tiles = min(x.shape[1], outputs[1]), -(-outputs[2] // 4) * -(-outputs[3] // 4)
    return channels >= 16 and outputs[0] * tiles >= 8 and tiles <= min(64 * channels, 4096) and _has_wide_kernel()


@functools.cache
def _has_wide_kernel() -> bool:
    return has_kernel("winograd_convolution", "CPU") and build_info()["winograd"] in ("AVX-512", "AVX2")


def _check(what, x, *others):
    check_tensors(what, x, *others)
    if any(t.dtype != torch.float32 or t.dim() != 4 for t in (x, *others)):
        raise UserError(f"{what} needs float32 tensors of 4 dimensions, got "
                        + " and ".join(f"{list(t.shape)} {t.dtype}" for t in (x, *others)))


def _check_padding(what, padding):
    if isinstance(padding, bool) or padding not in (0, 1, 2):
        raise UserError(f"{what} needs a padding of 0, 1 or 2, got {padding!r}")


def winograd_convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, padding: int = 1,
                         adjoint: bool = False) -> torch.Tensor:
    """conv2d(x, weight, bias, padding=padding) for 3x3 kernels; not differentiable by autograd.

    x: [N,C,H,W] float32; contiguous and channels-last are read as they lie, and so is the result
    [N,F,H+2p-2,W+2p-2]. weight: [F,C,3,3]. padding: 0, 1 or 2.
    adjoint: with the weight [C,F,3,3] of a convolution from F to C channels; for a padding of 2 - p this is the input
    gradient of conv2d with padding p, for x the gradient of its outputs.
    Raises UserError for other shapes or dtypes.
    """
    what = "winograd_convolution"
    _check(what, x, weight)
    _check_padding(what, padding)
    if weight.shape[2:] != (3, 3) or weight.shape[0 if adjoint else 1] != x.shape[1]:
        raise UserError(f"{what} needs 3x3 kernels for the {x.shape[1]} channels of x, got a weight "
                        f"{list(weight.shape)}{' of an adjoint' if adjoint else ''}")
    if min(x.shape[2:]) + 2 * padding < 3:
        raise UserError(f"{what} needs images that are not smaller than the kernel, got {list(x.shape)}")
    if bias is not None and (bias.shape != (weight.shape[1 if adjoint else 0],) or bias.dtype != x.dtype):
        raise UserError(f"{what} needs a float32 bias with a number a filter, got {list(bias.shape)} {bias.dtype}")
    return _op(x.detach(), weight.detach(), None if bias is None else bias.detach(), padding, adjoint)


def winograd_weight_gradient(x: torch.Tensor, g: torch.Tensor, padding: int = 1) -> torch.Tensor:
    """The gradient [F,C,3,3] of sum(g * conv2d(x, weight, padding=padding)) in the weight, contiguous.

    x: [N,C,H,W], g: [N,F,H+2p-2,W+2p-2], float32, contiguous or channels-last both; padding: 0, 1 or 2.
    Raises UserError for other shapes or dtypes.
    """
    what = "winograd_weight_gradient"
    _check(what, x, g)
    _check_padding(what, padding)
    if g.shape[0] != x.shape[0] or any(n != m + 2 * padding - 2 for n, m in zip(g.shape[2:], x.shape[2:], strict=True)):
        raise UserError(f"{what} needs gradients of the outputs [N,F,H+2p-2,W+2p-2] of images {list(x.shape)} at "
                        f"padding {padding}, got {list(g.shape)}")
    return _weight_gradient(x.detach(), g.detach(), padding)
