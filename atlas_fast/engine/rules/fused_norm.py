"""The passes of BatchNorm by the package's own kernels, two launches each; formulas in `batch_norm`."""

from __future__ import annotations

import torch

from ...ops._registry import triton_available
from ...ops.norm_relu import norm_relu
from ...ops.norm_relu_backward import norm_relu_backward
from ...ops.norm_relu_tangent import norm_relu_tangent


def applies(a: torch.Tensor, b: torch.Tensor | None, module) -> bool:
    """On a CUDA device with Triton, channels-last; float64 parameters only with float64 activations."""
    if not a.is_cuda or not triton_available() or not a.is_contiguous(memory_format=torch.channels_last):
        return False
    if b is not None and (b.shape != a.shape or b.dtype != a.dtype or b.stride() != a.stride()):
        return False
    wide = torch.promote_types(a.dtype, torch.float32)
    own = (module.weight, module.bias, module.running_mean, module.running_var)
    return a.dtype != torch.float16 and all(v is None or v.dtype == wide for v in own)


def forward(a, b, module, running, groups, batch, momentum, relu):
    """(z, act, mean, rstd)."""
    running_mean, running_var = running
    return norm_relu(a, b, module.weight, module.bias, running_mean, running_var, groups, batch, momentum, module.eps,
                     relu)


def backward(saved, g, module, relu, input_too, grads, total, extra):
    """(dz or None, (g, sums))."""
    dz, sums = norm_relu_backward(g, saved.z, saved.mean, saved.rstd, module.weight, module.bias, total, extra,
                                  grads.slot(module.weight), grads.slot(module.bias), len(saved.mean), saved.batch,
                                  relu, input_too)
    return dz if input_too else None, (g, sums)


def tangent(saved, recorded, t, t_b, module, relu, grads):
    """(tangent of z, tangent of act, second-order adjoint of z or None)."""
    g, sums = recorded
    summed, out, extra = norm_relu_tangent(t, t_b, g, saved.z, saved.mean, saved.rstd, module.weight, module.bias, sums,
                                           grads.slot(module.weight), len(saved.mean), saved.batch, relu)
    return (t if t_b is None else summed), out, extra if saved.batch else None
