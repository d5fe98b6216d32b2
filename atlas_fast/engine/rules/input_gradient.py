"""Input gradient of a convolution with few input channels on a CPU, where oneDNN 3 takes up to 8 times what it should.

Measured in float32 on one core of a Xeon with AVX-512 (oneDNN's brgconv_strided; ms by convolution_backward / here):

    batch, in, size, out, kernel, stride      oneDNN   here
    128,    1,   28,  16,      4,      2       10.06   1.34   columns
    128,    1,   28,  32,      5,      1       23.70   9.08   columns
    128,   16,   14,  32,      4,      2        6.17   3.24   phases
      8,    3,   64,  64,      7,      2       10.74   3.81   phases
    128,   32,   16,  32,      4,      2        9.59   8.43   not worth it; at 64 channels it is slower
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

aten = torch.ops.aten
_FEW = 16


def special(module: torch.nn.Conv2d, g: torch.Tensor):
    """The function (g, weight, module, size of the input) -> input gradient that is faster here, or None."""
    if g.device.type != "cpu" or g.dtype not in (torch.float32, torch.float64) or module.groups > 1:
        return None
    if not (g.is_contiguous() or g.is_contiguous(memory_format=torch.channels_last)):
        return None
    if module.in_channels == 1:
        return by_columns
    strided = max(module.stride) > 1 and module.dilation == (1, 1)
    return by_phases if strided and module.in_channels <= _FEW else None


def by_columns(g, weight, module, size):
    """Every output pixel's gradient spread over its patch, by a matrix product; overlapping patches are summed."""
    columns = weight.flatten(1).t() @ g.flatten(2)
    return aten.col2im(columns, size, module.kernel_size, module.dilation, module.padding, module.stride)


def by_phases(g, weight, module, size):
    """With stride s, pixels s m + r of the padded input (phase r) see the taps s q + r of the kernel only:

        dx[s m + r] = sum_q g[m - q] w[s q + r],

    a convolution of stride 1 with the s^2 phases as channels.
    """
    (out, channels), (sh, sw) = weight.shape[:2], module.stride
    qh, qw = -(-weight.shape[2] // sh), -(-weight.shape[3] // sw)
    weight = F.pad(weight, (0, qw * sw - weight.shape[3], 0, qh * sh - weight.shape[2]))
    weight = weight.view(out, channels, qh, sh, qw, sw).permute(1, 3, 5, 0, 2, 4).flip(-2, -1)
    weight = weight.reshape(channels * sh * sw, out, qh, qw)
    phases = F.conv2d(g, weight, padding=(qh - 1, qw - 1)).unflatten(1, (channels, sh, sw))
    layout = torch.contiguous_format if g.is_contiguous() else torch.channels_last  # the activations are as g is
    dx = torch.empty(g.shape[0], channels, *size, dtype=g.dtype, device=g.device, memory_format=layout).zero_()
    for a in range(sh):
        into_rows, rows = _places(a, sh, module.padding[0], size[0], phases.shape[4])
        for b in range(sw):
            into_columns, columns = _places(b, sw, module.padding[1], size[1], phases.shape[5])
            dx[:, :, into_rows, into_columns] = phases[:, :, a, b, rows, columns]
    return dx


def _places(phase, stride, padding, size, available):
    """(where in the input, which of the `available` m): pixels i with i + padding = stride m + phase."""
    first = (phase - padding) % stride
    m = (first + padding) // stride
    count = min(len(range(first, size, stride)), available - m)
    return slice(first, first + count * stride, stride), slice(m, m + count)
