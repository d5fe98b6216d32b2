"""Whether several batches can run through a network as one, each giving what it would alone.

BatchNorm takes its statistics batch by batch, so that only what mixes samples stands in the way.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from .rules import Affine, BatchNorm, Flatten, Mean, Reshape


def why_inseparable(steps, model: torch.nn.Module) -> str | None:
    """The first step that might mix samples, or depend on how many there are; None: no step does."""
    for step in steps:
        if step.rule is not None and not _separable(step, model):
            return f"{type(step.rule).__name__} (node {step.node.name!r})"
    return None


def _separable(step, model) -> bool:
    rule, constants = step.rule, step.constants
    if isinstance(rule, Mean):
        return all(dim >= 1 for dim in rule.dims)
    if isinstance(rule, Reshape):
        first = constants[0] if constants else None
        first = first[0] if isinstance(first, (tuple, list)) and first else first
        return _is_batch_size(first) if isinstance(first, fx.Node) else first == -1
    if isinstance(rule, Flatten):
        return rule.dims[0] >= 1
    if isinstance(rule, BatchNorm):
        return rule.module.momentum is not None  # a cumulative average weighs the second batch less than the first
    return _broadcasts(constants[0], model) if isinstance(rule, Affine) else True


def _is_batch_size(node: fx.Node) -> bool:
    """x.size(0) or x.shape[0]."""
    if node.op == "call_method" and node.target == "size":
        return bool(node.args[1:] == (0,) or node.kwargs.get("dim") == 0)
    shape = node.args[0] if node.target is operator.getitem and node.args[1] == 0 else None
    return isinstance(shape, fx.Node) and (shape.target is getattr or shape.target == "size")


def _broadcasts(constant, model) -> bool:
    """A number, or a buffer that has no dimension for the samples (and is not computed at every pass)."""
    if not isinstance(constant, fx.Node):
        return True
    if constant.op != "get_attr":
        return False
    owner, _, name = str(constant.target).rpartition(".")
    buffer = getattr(model.get_submodule(owner), name)
    return buffer.dim() in (0, 1, 3) or buffer.shape[0] == 1
