"""The passes of BatchNorm by PyTorch's kernels, the tangent by `ops.norm_relu_tangent`; formulas in `batch_norm`.

Where processes share the statistics, PyTorch's backward, which takes the means of this one, is put right afterwards.
"""

from __future__ import annotations

import torch

from ...ops import _norm
from ...ops._arguments import compute_dtype
from . import shared_norm

aten = torch.ops.aten


def forward(z, module, running, groups, batch, momentum, relu, ranks):
    """(act, mean, rstd); running statistics are updated group by group, in order."""
    def one(part, mean, var):
        return aten.native_batch_norm(part, module.weight, module.bias, mean, var, batch and ranks is None, momentum,
                                      module.eps)

    used = [running] * groups
    if ranks is not None:
        statistics = shared_norm.together(_statistics(z, groups), ranks)
        mean, var = statistics
        shared_norm.move(running, statistics, momentum, ranks.size * z.numel() // mean.numel())
        used = list(zip(mean, var, strict=True))  # taken as running ones
    results = [one(part, *pair) for part, pair in zip(z.chunk(groups), used, strict=True)]
    out = results[0][0] if groups == 1 else torch.cat([r[0] for r in results])
    if ranks is not None:
        rstd = (var + module.eps).rsqrt()
    elif batch:
        mean, rstd = (torch.stack([r[i] for r in results]) for i in (1, 2))
    else:  # the kernels return none of these
        mean, rstd = (v.expand(groups, -1) for v in (running[0], (running[1] + module.eps).rsqrt()))
    return out.relu_() if relu else out, mean, rstd


def _statistics(z, groups):
    """Mean and biased variance of this process's part: [2, groups, C]."""
    z = z.to(compute_dtype(z.dtype))
    if z.device.type != "cpu":
        return _norm.group_statistics(z, groups)
    # var_mean takes 2.4 times as long on a CPU, 11 to 19 times in channels-last.
    parts = [torch.stack(torch.batch_norm_update_stats(part, None, None, 0.0)) for part in z.chunk(groups)]
    return torch.stack(parts, 1)


def backward(saved, g, module, relu, input_too, grads, total, extra):
    """(dz or None, (D, sums))."""
    weight, bias, groups = module.weight, module.bias, len(saved.mean)
    D = aten.threshold_backward(g, saved.out, 0) if relu else g
    wants_sums = saved.ranks is not None or grads.records or grads.takes(weight) or grads.takes(bias)

    def one(part, z, mean, rstd):
        return aten.native_batch_norm_backward(part, z, weight, *saved.running, mean, rstd, saved.batch, module.eps,
                                               (input_too, wants_sums, wants_sums))

    results = [one(*parts) for parts in zip(D.chunk(groups), saved.z.chunk(groups), saved.mean, saved.rstd,
                                            strict=True)]
    sums = torch.stack([torch.stack([r[i] for r in results]) for i in (2, 1)]) if wants_sums else None
    for i, parameter in enumerate((bias, weight)):
        if sums is not None and grads.takes(parameter):
            grads.add(parameter, sums[i].sum(0))
    if not input_too:
        return None, (D, sums)
    dz = results[0][0] if groups == 1 else torch.cat([r[0] for r in results])
    if saved.ranks is not None and sums is not None:
        own, sums = sums, saved.ranks.average(sums.clone())
        _shift_means(dz, own - sums, saved, weight)
    if total is not None:
        dz += total
    if extra is not None:
        dz[:len(extra)] += extra
    return dz, (D, sums)


def _shift_means(dz, excess, saved, weight) -> None:
    """dz by the means of all processes; excess: [2, groups, C], by how much this one's sums of D and D yh exceed
    them."""
    n, samples = dz.numel() // saved.mean.numel(), len(dz)
    scale = _norm.scale(weight, saved.rstd) / n
    centred = saved.z.to(scale.dtype) - _norm.per_sample(saved.mean, samples)
    dz += torch.addcmul(_norm.per_sample(scale * excess[0], samples), centred,
                        _norm.per_sample(scale * saved.rstd * excess[1], samples))


def tangent(saved, recorded, t, t_b, module, relu, grads):
    """(tangent of z, tangent of act, second-order adjoint of z or None)."""
    D, sums = recorded
    z, dtype = saved.z, saved.z.dtype
    if dtype == torch.float16:  # for which the operation has no kernel
        t, t_b, D, z = (None if v is None else v.float() for v in (t, t_b, D, z))
    site = (D, z, saved.mean, saved.rstd, module.weight, module.bias)
    summed, out, extra = shared_norm.tangent(t, t_b, site, sums, grads.slot(module.weight), len(saved.mean),
                                             saved.batch, relu, saved.ranks)
    return summed.to(dtype), out.to(dtype), extra.to(dtype) if saved.batch else None
