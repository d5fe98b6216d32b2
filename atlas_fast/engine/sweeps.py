"""The four sweeps over a network: forward, backward to the images, tangent, reverse to the weights.

`tangent` is the adjoint of a recorded backward sweep, run from the images to the logits: it yields the weight gradients
of phi(v^T J) that do not pass through the activations, and for those that do (batch statistics) an adjoint at the
layer's input, which the reverse sweep picks up. Nothing here is differentiated by autograd.

Several batches of one size may run as one (`groups`): BatchNorm keeps their statistics apart, and the sweeps to the
images and back take one of them (`group`).

With `segments` only what crosses from one to the next is kept of the forward sweep and of a recorded backward sweep;
the rest is computed again, segment by segment, by the sweeps that need it (`recomputed`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

from ..errors import UserError
from .gradients import NONE, RECORD, Gradients
from .graph import Network, Step
from .recomputed import Recomputed, RecordedAgain
from .rules import BatchNorm


class Take:
    """Of a tensor, or of a shape, the samples of one of `groups` equal groups."""

    def __init__(self, index: int, groups: int):
        self.index, self.groups = index, groups

    def __call__(self, value):
        size, left = divmod(value[0] if isinstance(value, torch.Size) else len(value), self.groups)
        if left:
            raise UserError(f"{self.groups} batches cannot be told apart in {size * self.groups + left} samples")
        if isinstance(value, torch.Size):
            return torch.Size((size, *value[1:]))
        return value[self.index * size:(self.index + 1) * size]


class Sweeps:
    """The forward sweep has run on `images`; `logits` [N, C] is its result."""

    def __init__(self, network: Network, images: torch.Tensor, groups: int = 1,
                 segments: list[tuple[int, int]] | None = None):
        self._network, self.groups, self._segments = network, groups, segments
        self._extra: dict[int, torch.Tensor] = {}
        values = self._values(images)
        if segments is None:
            self._saved: list | Recomputed = self._steps_forward(0, len(network.steps), values)
        else:
            self._saved = again = Recomputed(self._steps_forward, network, segments)
            for first, stop in segments:
                again.enter(first, values)
                self._steps_forward(first, stop, values)
        self._count()
        self.logits = values[network.output]

    def _steps_forward(self, first: int, stop: int, values: list) -> list:
        """Runs some steps on the values; returns what each of them saved."""
        number, all_saved = self._network.number, []

        def resolve(arguments):
            return fx.map_arg(arguments, lambda node: values[number[node]])

        for step in self._network.steps[first:stop]:
            saved = None
            if step.rule is None:
                values[step.output] = _constant(step.node, self._network.root, resolve)
            else:
                inputs = [values[k] for k in step.inputs]
                groups = {"groups": self.groups} if isinstance(step.rule, BatchNorm) else {}
                result, saved = step.rule.forward(*inputs, *resolve(step.constants), **groups)
                _put(values, step, result)
                del inputs, result  # or the step's own inputs would outlive `free`
            all_saved.append(saved)
            for k in step.free:
                values[k] = None
        return all_saved

    def _values(self, images) -> list:
        return [images] + [None] * (self._network.values - 1)

    def _count(self) -> None:
        """The pass in the counters of BatchNorm, all in one launch."""
        norms = (step.rule for step in self._network.steps if isinstance(step.rule, BatchNorm))
        counters = [counter for rule in norms if (counter := rule.counter()) is not None]
        if counters:
            torch._foreach_add_(counters, self.groups)

    def _of(self, group: int) -> list | Recomputed:
        """What each step saved of one group."""
        if self.groups == 1:
            return self._saved
        assert isinstance(self._saved, list), "groups are not computed again"
        take = Take(group, self.groups)
        return [saved if step.rule is None else step.rule.part(saved, take)
                for step, saved in zip(self._network.steps, self._saved, strict=True)]

    def to_images(self, cotangent: torch.Tensor, group: int = 0, record: bool = False):
        """(v^T J, None); uses the tape up. record: (v^T J, what `tangent` needs), and the tape stays."""
        wanted, saved = [True] * self._network.values, self._of(group)
        adjoint, recorded = self._backward(saved, cotangent, wanted, RECORD if record else NONE, {}, keep=record)
        if adjoint is None:
            raise UserError("the model's output does not depend on its input differentiably")
        return adjoint, (saved, recorded, group) if record else None

    def tangent(self, record: tuple, u: torch.Tensor, grads: Gradients) -> torch.Tensor:
        """Weight gradients of phi(v^T J), with u = dphi/d(v^T J): to grads, and adjoints for `to_weights`.
        Returns J u."""
        (saved, recorded, group), values = record, self._values(u)
        for i, step in enumerate(self._network.steps):
            if recorded[i] is None:  # the logits do not depend on this step
                continue
            t = [values[k] for k in step.inputs]
            result, extra = step.rule.tangent(saved[i], recorded[i][0], t, grads)
            _put(values, step, result)
            if extra is not None:
                self._add_extra(i, extra, group)
            for k in step.free:
                values[k] = None
        return values[self._network.output]

    def _add_extra(self, i, extra, group) -> None:
        """`_extra` belongs to the first samples; that of a later group gets zeros before it."""
        if group > 0:
            whole = extra.new_zeros((group + 1) * len(extra), *extra.shape[1:])
            whole = whole.contiguous(memory_format=_layout(extra))
            whole[group * len(extra):] = extra
            extra = whole
        self._extra[i] = self._extra[i].add_(extra) if i in self._extra else extra

    def to_weights(self, cotangent: torch.Tensor | None, grads: Gradients, images: bool = False) -> torch.Tensor | None:
        """Weight gradients of the logits' cotangent (None: zero) and of what tangents left; uses the tape up.

        images: the same pass goes on to the images, whose gradient is returned.
        """
        wanted = [True] * self._network.values if images else _trainable(self._network)
        adjoint, _ = self._backward(self._saved, cotangent, wanted, grads, self._extra, keep=False)
        self._extra = {}
        return adjoint

    def _backward(self, all_saved, cotangent, wanted, grads, extras, keep):
        """Adjoint of the images, and what each step recorded: in a tuple of one, or None where it was not reached."""
        adjoints: list[Any] = [None] * self._network.values
        adjoints[self._network.output] = cotangent
        sweep = functools.partial(self._steps_backward, all_saved=all_saved, wanted=wanted, grads=grads, extras=extras,
                                  keep=keep)
        if self._segments is None or not grads.records:
            records = sweep(0, len(self._network.steps), adjoints)
            return adjoints[0], records
        recorded = RecordedAgain(sweep, self._segments)
        for first, stop in reversed(self._segments):
            recorded.enter(first, adjoints)
            sweep(first, stop, adjoints)
        return adjoints[0], recorded

    def _steps_backward(self, first: int, stop: int, adjoints: list, *, all_saved, wanted, grads, extras, keep) -> list:
        """Takes the adjoints through some steps; returns what each of them recorded."""
        steps = self._network.steps
        recorded: list[tuple | None] = [None] * (stop - first)
        for i in reversed(range(first, stop)):
            step, saved = steps[i], all_saved[i]
            g, adjoints[step.output] = adjoints[step.output], None
            if not keep:
                all_saved[i] = None
            more = {"extra": extras[i]} if i in extras else {}
            if step.total is not None and adjoints[step.total] is not None:
                more["total"], adjoints[step.total] = adjoints[step.total], None
            if wanted[step.output] and (g is not None or more):
                gs, record = step.rule.backward(saved, g, [wanted[k] for k in step.inputs], grads, **more)
                recorded[i - first] = (record,) if grads.records else None
                _accumulate(adjoints, step, gs, step.rule.OWNS_ADJOINT and not grads.records)
        return recorded


def _put(values, step: Step, result) -> None:
    """A step's value, and that of the sum which a BatchNorm makes first."""
    if isinstance(step.rule, BatchNorm) and step.rule.add is not None:
        result, total = result
        if step.total is not None:
            values[step.total] = total
    values[step.output] = result


def _accumulate(adjoints, step: Step, gs, writable: bool) -> None:
    """Adds the adjoints of a step's inputs; writable: the new ones may be written to."""
    for k, g in zip(step.inputs, gs, strict=False):
        if g is not None:
            have = adjoints[k]
            adjoints[k] = g if have is None else g.add_(have) if writable else have + g


def _trainable(network: Network) -> list[bool]:
    """By value: whether a parameter that requires grad lies at or before the step that computes it."""
    trainable = [False] * network.values
    for step in network.steps:
        if step.rule is not None:
            own = any(p.requires_grad for p in step.rule.parameters)
            trainable[step.output] = own or any(trainable[k] for k in step.inputs)
            if step.total is not None:
                trainable[step.total] = any(trainable[k] for k in step.inputs)
    return trainable


def _layout(x: torch.Tensor) -> torch.memory_format:
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _constant(node: fx.Node, root, resolve):
    """The value of a node that computes a buffer, a size, or something from those."""
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return getattr(root.get_submodule(owner), name)
    args, kwargs = resolve(node.args), resolve(node.kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)  # op is call_function
    return node.target(*args, **kwargs)
