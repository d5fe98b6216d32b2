"""One rule per kind of node: its part of the four sweeps.

A rule is made from a module, or from the arguments that follow the input in a call, and offers

    forward(*inputs, *constants)        -> (output, saved)
    part(saved, take)                   -> saved of some of the samples; take(tensor or shape): the same for one tensor
    backward(saved, g, wanted, grads)   -> (an adjoint per input, None where wanted is False; recorded)
    tangent(saved, recorded, t, grads)  -> (tangent of the output, adjoint that goes to the first input, or None)

With y = f(x, w), `backward` computes g -> f_x^T g and adds f_w^T g to grads, which takes nothing in sweeps that ask for
no weight gradient. `tangent` is the adjoint of that map: from t (one per input), the adjoints of its results, it
computes f_x t, the adjoint of g, and what t sends to the weights and, where f_x depends on x (batch statistics), to x.
`recorded` is what it needs of the backward pass. No tensor given is written to, but the input that `overwrite` names.

    KEEPS_OUTPUT   the tape holds the output, so that nobody may write to it
    VIEW           the output may share memory with the input
    OWNS_ADJOINT   the adjoint is new memory of its own
    overwrite      index of an input that nobody else uses, whose memory may take the output; or None
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .add import Add
from .affine import Affine
from .batch_norm import BatchNorm
from .convolution import Convolution
from .linear import Linear
from .mean import Mean
from .pooling import AdaptiveAvgPool, AvgPool, MaxPool
from .relu import ReLU
from .shape import Flatten, Identity, Permute, Reshape
from .unmatched import Unmatched

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "Add", "Affine", "BatchNorm", "Flatten", "MaxPool", "Mean", "ReLU",
           "Reshape", "Unmatched"]


def _dropout(p=0.5, training=True, inplace=False):
    if training and p > 0:
        raise Unmatched(f"dropout with p={p}, which is random")
    return Identity()


MODULES: dict[type, Callable[..., Any]] = {
    nn.Conv2d: Convolution,
    nn.Linear: Linear,
    nn.BatchNorm2d: BatchNorm,
    nn.ReLU: lambda module, weights: ReLU(),
    nn.MaxPool2d: lambda m, weights: MaxPool(m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode,
                                             m.return_indices),
    nn.AvgPool2d: lambda m, weights: AvgPool(m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad,
                                             m.divisor_override),
    nn.AdaptiveAvgPool2d: lambda module, weights: AdaptiveAvgPool(module.output_size),
    nn.Flatten: lambda module, weights: Flatten(module.start_dim, module.end_dim),
    nn.Identity: lambda module, weights: Identity(),
    **dict.fromkeys((nn.Dropout, nn.Dropout2d), lambda module, weights: _dropout(module.p, module.training)),
}
"""Exact type of a module -> (module, low-precision weights or None) -> rule. Subclasses may do something else."""

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.relu: ReLU, torch.relu_: ReLU, F.relu: ReLU, F.relu_: ReLU,
    F.max_pool2d: MaxPool, torch.max_pool2d: MaxPool, F.avg_pool2d: AvgPool, F.adaptive_avg_pool2d: AdaptiveAvgPool,
    torch.flatten: Flatten, torch.reshape: Reshape, torch.permute: Permute, torch.mean: Mean,
    **dict.fromkeys((F.dropout, F.dropout2d), _dropout),
    **{f: Add for f in (operator.add, operator.iadd, torch.add)},
    **{f: Affine.subtract for f in (operator.sub, operator.isub, torch.sub)},
    **{f: Affine.multiply for f in (operator.mul, operator.imul, torch.mul)},
    **{f: Affine.divide for f in (operator.truediv, operator.itruediv, torch.div)},
}
METHODS = {
    "relu": ReLU, "relu_": ReLU, "flatten": Flatten, "reshape": Reshape, "view": Reshape, "mean": Mean,
    "permute": Permute, "contiguous": Identity,
    "add": Add, "add_": Add, "sub": Affine.subtract, "sub_": Affine.subtract,
    "mul": Affine.multiply, "mul_": Affine.multiply, "div": Affine.divide, "div_": Affine.divide,
}
"""A function or a tensor's method -> what makes the rule from the arguments after the input."""
