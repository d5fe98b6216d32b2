"""BatchNorm's statistics over the equal parts that several processes hold of each batch.

Every m(.) of `batch_norm`'s formulas is then a mean over all of them: one small message in a pass, [2, groups, C]
forward and backward and [3, groups, C] in the tangent, between the kernels that make the sums and those that use them
(`fused_norm`, `native_norm`). What goes to gamma and beta stays this process's part, since the gradients of all
processes are averaged in the end; a mean over all counts in the tangent as often as there are samples here. Nothing
waits for the device, so that NCCL's messages can be part of a CUDA graph.
"""

from __future__ import annotations

import torch

from ...ops.norm_relu_tangent import norm_relu_tangent, norm_relu_tangent_sums


def move(running, statistics, momentum, count):
    """Running statistics, group by group, in order. statistics: mean and biased variance, [2, groups, C], of all
    processes; count: of how many values each is."""
    mean, var = statistics
    for kept, values in zip(running, (mean, var * (count / (count - 1))), strict=True):
        for value in values if kept is not None else ():
            kept.lerp_(value, momentum)


def together(statistics: torch.Tensor, ranks) -> torch.Tensor:
    """Mean and biased variance of the union of equal parts, from those of this one: [2, ...], the same bits everywhere.

    Not from sums of squares, whose difference loses the digits of a variance that is small beside the mean.
    """
    parts = ranks.gather(statistics[None])
    both = parts.mean(0)
    both[1] += parts[:, 0].var(0, correction=0)
    return both


Site = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""g, z, mean, rstd, weight, bias: as norm_relu_backward was given them."""


def tangent(t, t_b, site: Site, sums, grad_weight, groups, batch, relu, ranks):
    """norm_relu_tangent, by the sums of all processes; ranks None: by those of this one."""
    given = None
    if ranks is not None:
        t, given = norm_relu_tangent_sums(t, t_b, *site, groups, relu)
        t_b, given = None, ranks.average(given)
    return norm_relu_tangent(t, t_b, *site, sums, grad_weight, groups, batch, relu, given)
