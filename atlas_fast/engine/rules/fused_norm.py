"""The passes of BatchNorm by the package's own kernels, two launches each; formulas in `batch_norm`.

Where processes share the statistics, each is a call for this one's sums, a message, and a call for what is made of
everybody's: three launches.
"""

from __future__ import annotations

import torch

from ...ops._registry import triton_available
from ...ops.norm_relu import norm_relu, norm_relu_statistics
from ...ops.norm_relu_backward import norm_relu_backward
from . import shared_norm


def applies(a: torch.Tensor, b: torch.Tensor | None, module) -> bool:
    """On a CUDA device with Triton, channels-last; float64 parameters only with float64 activations."""
    if not a.is_cuda or not triton_available() or not a.is_contiguous(memory_format=torch.channels_last):
        return False
    if b is not None and (b.shape != a.shape or b.dtype != a.dtype or b.stride() != a.stride()):
        return False
    wide = torch.promote_types(a.dtype, torch.float32)
    own = (module.weight, module.bias, module.running_mean, module.running_var)
    return a.dtype != torch.float16 and all(v is None or v.dtype == wide for v in own)


def forward(a, b, module, running, groups, batch, momentum, relu, ranks):
    """(z, act, mean, rstd)."""
    options = {"groups": groups, "batch_statistics": batch, "momentum": momentum, "eps": module.eps, "relu": relu}
    if ranks is None:
        return norm_relu(a, b, module.weight, module.bias, *running, **options)
    z, *own = norm_relu_statistics(a, b, groups)
    statistics = shared_norm.together(torch.stack(own), ranks)
    shared_norm.move(running, statistics, momentum, ranks.size * z.numel() // own[0].numel())
    return norm_relu(z, None, module.weight, module.bias, None, None, **options, given=statistics)


def backward(saved, g, module, relu, input_too, grads, total, extra):
    """(dz or None, (g, sums))."""
    site = (g, saved.z, saved.mean, saved.rstd, module.weight, module.bias)
    slots = (grads.slot(module.weight), grads.slot(module.bias))
    options = {"groups": len(saved.mean), "batch_statistics": saved.batch, "relu": relu}
    if saved.ranks is None:
        dz, sums = norm_relu_backward(*site, total, extra, *slots, **options, input_too=input_too)
        return dz if input_too else None, (g, sums)
    _, sums = norm_relu_backward(*site, None, None, *slots, **options, input_too=False)
    if not input_too:
        return None, (g, sums)
    sums = saved.ranks.average(sums)
    dz, _ = norm_relu_backward(*site, total, extra, **options, given=sums)
    return dz, (g, sums)


def tangent(saved, recorded, t, t_b, module, relu, grads):
    """(tangent of z, tangent of act, second-order adjoint of z or None)."""
    g, sums = recorded
    site = (g, saved.z, saved.mean, saved.rstd, module.weight, module.bias)
    summed, out, extra = shared_norm.tangent(t, t_b, site, sums, grads.slot(module.weight), len(saved.mean),
                                             saved.batch, relu, saved.ranks)
    return summed, out, extra if saved.batch else None
