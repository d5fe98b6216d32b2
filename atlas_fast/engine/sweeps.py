"""The four sweeps over a network at one point: forward, backward to the images, tangent, reverse to the weights.

`tangent` is the adjoint of a recorded backward sweep, run from the images to the logits: it yields the weight gradients
of phi(v^T J) that do not pass through the activations, and for those that do (batch statistics) an adjoint at the
layer's input, which the reverse sweep picks up. Nothing here is differentiated by autograd.
"""

from __future__ import annotations

import torch
from torch import fx

from ..errors import UserError
from .graph import Network, Step


class Gradients:
    """Weight gradients by parameter. collect False: takes none; records: the sweep must return what a tangent needs."""

    def __init__(self, collect: bool = True, records: bool = False):
        self._collect, self.records, self._values = collect, records, {}

    def takes(self, parameter) -> bool:
        return self._collect and parameter is not None and parameter.requires_grad

    def add(self, parameter, value) -> None:
        """`value` must be new memory; it is kept and added to."""
        if value is None or not self.takes(parameter):
            return
        value = value.to(parameter.dtype)
        if parameter in self._values:
            self._values[parameter].add_(value)
        else:
            self._values[parameter] = value

    def pop(self) -> dict[torch.nn.Parameter, torch.Tensor]:
        values, self._values = self._values, {}
        return values


_NONE, _RECORD = Gradients(collect=False), Gradients(collect=False, records=True)


class Sweeps:
    """The forward sweep has run on `images`; `logits` [N, C] is its result."""

    def __init__(self, network: Network, images: torch.Tensor):
        self._network = network
        self._saved: list = [None] * len(network.steps)
        self._extra: dict[int, torch.Tensor] = {}
        self.logits = self._forward(images)

    def _forward(self, images):
        number, values = self._network.number, [images] + [None] * len(self._network.steps)

        def resolve(arguments):
            return fx.map_arg(arguments, lambda node: values[number[node]])

        for i, step in enumerate(self._network.steps):
            if step.rule is None:
                values[step.output] = _constant(step.node, self._network.root, resolve)
            else:
                inputs = [values[k] for k in step.inputs]
                values[step.output], self._saved[i] = step.rule.forward(*inputs, *resolve(step.constants))
            for k in step.free:
                values[k] = None
        return values[self._network.output]

    def to_images(self, cotangent: torch.Tensor, record: bool = False):
        """(v^T J, None); uses the tape up. record: (v^T J, what `tangent` needs), and the tape stays."""
        wanted = [True] * (len(self._network.steps) + 1)
        adjoint, recorded = self._backward(cotangent, wanted, _RECORD if record else _NONE, keep=record)
        if adjoint is None:
            raise UserError("the model's output does not depend on its input differentiably")
        return adjoint, recorded

    def tangent(self, recorded: list, u: torch.Tensor, grads: Gradients) -> None:
        """Weight gradients of phi(v^T J), with u = dphi/d(v^T J): to grads, and adjoints for `to_weights`."""
        values = [u] + [None] * len(self._network.steps)
        for i, step in enumerate(self._network.steps):
            if recorded[i] is None:  # the logits do not depend on this step
                continue
            t = [values[k] for k in step.inputs]
            values[step.output], extra = step.rule.tangent(self._saved[i], recorded[i][0], t, grads)
            if extra is not None:
                self._extra[i] = self._extra[i].add_(extra) if i in self._extra else extra
            for k in step.free:
                values[k] = None

    def to_weights(self, cotangent: torch.Tensor | None, grads: Gradients) -> None:
        """Weight gradients of the logits' cotangent (None: zero) and of what tangents left; uses the tape up."""
        self._backward(cotangent, _trainable(self._network.steps), grads, keep=False)

    def _backward(self, cotangent, wanted, grads, keep):
        """Adjoint of the images, and what each step recorded: in a tuple of one, or None where it was not reached."""
        steps = self._network.steps
        adjoints: list = [None] * (len(steps) + 1)
        adjoints[self._network.output], recorded = cotangent, [None] * len(steps)
        for i in reversed(range(len(steps))):
            step, g, saved = steps[i], adjoints[steps[i].output], self._saved[i]
            adjoints[step.output] = None
            if not keep:
                self._saved[i] = None
            wants = [wanted[k] for k in step.inputs]
            if g is not None and wanted[step.output]:
                gs, record = step.rule.backward(saved, g, wants, grads)
                recorded[i] = (record,) if grads.records else None
                _accumulate(adjoints, step, gs, step.rule.OWNS_ADJOINT and not grads.records)
            extra = None if keep else self._extra.pop(i, None)
            if extra is not None and wants[0]:
                _accumulate(adjoints, step, (extra,), True)
        return adjoints[0], recorded


def _accumulate(adjoints, step: Step, gs, writable: bool) -> None:
    """Adds the adjoints of a step's inputs; writable: the new ones may be written to."""
    for k, g in zip(step.inputs, gs, strict=False):
        if g is not None:
            have = adjoints[k]
            adjoints[k] = g if have is None else g.add_(have) if writable else have + g


def _trainable(steps: list[Step]) -> list[bool]:
    """By value: whether a parameter that requires grad lies at or before the step that computes it."""
    trainable = [False] * (len(steps) + 1)
    for step in steps:
        if step.rule is not None:
            own = any(p.requires_grad for p in step.rule.parameters)
            trainable[step.output] = own or any(trainable[k] for k in step.inputs)
    return trainable


def _constant(node: fx.Node, root, resolve):
    """The value of a node that computes a buffer, a size, or something from those."""
    if node.op == "get_attr":
        owner, _, name = node.target.rpartition(".")
        return getattr(root.get_submodule(owner), name)
    args, kwargs = resolve(node.args), resolve(node.kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)
