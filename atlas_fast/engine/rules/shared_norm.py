"""The passes of BatchNorm with statistics over the equal parts that several processes hold of each batch.

Every m(.) of `batch_norm`'s formulas is then a mean over all of them: one small message in a pass, [2, groups, C]
forward and backward and [3, groups, C] in the tangent. What goes to gamma and beta stays this process's part, since
the gradients of all processes are averaged in the end; a mean over all counts in the tangent as often as there are
samples here. Nothing waits for the device, so that NCCL's messages can be part of a CUDA graph. Backward and tangent
are the definitions in plain PyTorch on every device: the kernels make their sums and use them in one go.
"""

from __future__ import annotations

import torch

from ...ops import _norm
from ...ops._arguments import compute_dtype
from ...ops.norm_relu_backward import norm_relu_backward_reference
from ...ops.norm_relu_tangent import norm_relu_tangent_reference
from . import fused_norm, native_norm


def forward(z, module, running, groups, momentum, relu, ranks):
    """(act, mean, rstd); running statistics are updated group by group, in order, and are those of all processes."""
    wide = z.to(compute_dtype(z.dtype))
    mean, var = together(_norm.group_statistics(wide, groups), ranks)
    count = ranks.size * z.numel() // mean.numel()
    for kept, values in zip(running, (mean, var * (count / (count - 1))), strict=True):
        for value in values if kept is not None else ():
            kept.mul_(1 - momentum).add_(value, alpha=momentum)
    parts = [_normalised(part, module, (mean[i], var[i]), momentum, relu) for i, part in enumerate(z.chunk(groups))]
    return parts[0] if groups == 1 else torch.cat(parts), mean, (var + module.eps).rsqrt()


def _normalised(z, module, statistics, momentum, relu):
    """As with running statistics: the kernels that read them take any."""
    if fused_norm.applies(z, None, module):
        return fused_norm.forward(z, None, module, statistics, 1, False, momentum, relu)[1]
    return native_norm.forward(z, module, statistics, 1, False, momentum, relu)[0]


def together(statistics: torch.Tensor, ranks) -> torch.Tensor:
    """Mean and biased variance of the union of equal parts, from those of this one: [2, ...], the same bits everywhere.

    Not from sums of squares, whose difference loses the digits of a variance that is small beside the mean.
    """
    means, variances = ranks.gather(statistics[None]).unbind(1)
    mean = means.mean(0)
    return torch.stack([mean, variances.mean(0) + (means - mean).square().mean(0)])


def backward(saved, g, module, relu, input_too, grads, total, extra):
    """(dz or None, (g, sums))."""
    dz, sums = norm_relu_backward_reference(
        g, saved.z, saved.mean, saved.rstd, module.weight, module.bias, total, extra, grads.slot(module.weight),
        grads.slot(module.bias), len(saved.mean), True, relu, input_too, saved.ranks.average)
    return dz if input_too else None, (g, sums)


def tangent(saved, recorded, t, t_b, module, relu, grads):
    """(tangent of z, tangent of act, second-order adjoint of z)."""
    g, sums = recorded
    summed, out, extra = norm_relu_tangent_reference(
        t, t_b, g, saved.z, saved.mean, saved.rstd, module.weight, module.bias, sums, grads.slot(module.weight),
        len(saved.mean), True, relu, saved.ranks.average)
    return (t if t_b is None else summed), out, extra
