"""A model as a list of steps, by torch.fx: which rule runs each node, on what, or why there is none."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from . import rules
from .low_precision import LowPrecision
from .rules import Add, Affine, BatchNorm, MaxPool, ReLU, Reshape, Unmatched
from .separable import why_inseparable


@dataclasses.dataclass
class Step:
    """One node. rule: of an activation, with the numbers of its input values and the constant arguments that follow;
    or None: `node` computes a constant (a buffer, a size). output: number of its value; total: of the sum that a
    BatchNorm with two inputs makes first, where others use that too; free: values last used here."""

    node: fx.Node
    output: int
    rule: Any = None
    inputs: tuple[int, ...] = ()
    constants: tuple = ()
    total: int | None = None
    free: tuple[int, ...] = ()


@dataclasses.dataclass
class Network:
    """steps in the order of execution. Values are numbered: 0 the images, `output` the logits, `number` by node.

    values: how many numbers there are; separable: why several batches cannot run as one, or None where they can.
    """

    root: nn.Module
    steps: list[Step]
    number: dict[fx.Node, int]
    output: int
    values: int
    inseparable: str | None


def build(model: nn.Module, weights: LowPrecision | None = None) -> Network:
    """The network of a model in its present mode; weights: of convolutions and linear layers, None: as they are.

    Raises Unmatched with the first thing that has no rule.
    """
    return _Builder(model, trace(model), weights).network()


class _Proxy(fx.Proxy):
    """Records `x += y` as the in-place operation that it is; fx would record x + y."""


def _recorded(operation):
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
for _operation in _IN_PLACE:
    setattr(_Proxy, f"__{_operation.__name__}__", _recorded(_operation))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # what is computed from buffers is computed at every pass

    def proxy(self, node):
        return _Proxy(node, self)


def trace(model: nn.Module) -> fx.Graph:
    """The model's nodes, down to the layers of torch.nn. Raises Unmatched, for hooks too."""
    _check_hooks(model)
    before = [(name, module, dict(vars(module))) for name, module in model.named_modules()]
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # a user's forward may raise anything when it meets a proxy
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unmatched(f"{type(model).__name__}, which torch.fx cannot trace: {reason}") from error
    finally:
        written = [_called(name, module) for name, module, values in before if _restore(module, values)]
    if written:
        raise Unmatched(f"{written[0]}, whose forward sets attributes")
    if any(node.op == "get_attr" and node.target.startswith(_CONSTANT) for node in graph.nodes):
        raise Unmatched(f"{type(model).__name__}, whose forward makes a tensor that torch.fx would take for a constant")
    return graph


_CONSTANT = "_tensor_constant"  # what torch.fx calls tensors that it finds in a forward


def _restore(module, values: dict) -> bool:
    """Whether tracing changed the module's attributes, which are as before now; fx's own constants do not count."""
    now = vars(module)
    changed = [name for name in {*now, *values} if now.get(name) is not values.get(name)]
    if changed:
        now.clear()
        now.update(values)
    return any(not name.startswith(_CONSTANT) for name in changed)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _check_hooks(model) -> None:
    for name, module in model.named_modules():
        if any(getattr(module, hooks) for hooks in _HOOKS):
            raise Unmatched(f"{_called(name, module)}, which has a hook")
    for name, p in model.named_parameters():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            raise Unmatched(f"parameter {name!r}, which has a hook")
    if any(getattr(nn.modules.module, f"_global{hooks}") for hooks in _HOOKS):
        raise Unmatched("modules while a global module hook is set")


def _called(name, module) -> str:
    return f"{type(module).__name__} {name!r}" if name else type(module).__name__


class _Builder:
    def __init__(self, model, graph: fx.Graph, weights):
        self.model, self.nodes, self.weights = model, list(graph.nodes), weights
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.value: dict[fx.Node, int] = {}  # activations
        self.constant: dict[fx.Node, int] = {}
        self.made: dict[int, Step] = {}  # value -> the step that computes it
        self.steps: list[Step] = []
        self.count = 1  # of values; 0 is the images
        self.seen: set[int] = set()  # ids of parameters

    def network(self) -> Network:
        for node in self.nodes:
            getattr(self, node.op, self.operation)(node)
        last = {i: step for step in self.steps for i in (*step.inputs, *self._constant_inputs(step))}
        for i, step in last.items():
            if i != self.result:
                step.free = (*step.free, i)
        number = {**self.value, **self.constant}
        return Network(self.model, self.steps, number, self.result, self.count, why_inseparable(self.steps, self.model))

    def placeholder(self, node):
        if self.value:
            raise Unmatched("a model with more than one input")
        self.value[node] = 0

    def output(self, node):
        result = node.args[0]
        if not isinstance(result, fx.Node) or result not in self.value:
            raise Unmatched("a model that does not return one tensor of logits")
        self.result = self.value[result]

    def get_attr(self, node):
        owner, _, name = node.target.rpartition(".")
        if name not in self.model.get_submodule(owner)._buffers:
            raise Unmatched(f"{node.target!r}, a parameter or tensor that is used outside a layer")
        self._add_constant(node)

    def operation(self, node):
        if not any(argument in self.value for argument in node.all_input_nodes) or _is_size(node):
            if node.op == "call_module":
                raise Unmatched(f"{node.target!r} on a constant")
            self._add_constant(node)
            return
        rule, inputs, constants = self._module(node) if node.op == "call_module" else self._call(node)
        if _in_place(node, self.model):
            self._check_in_place(node)
        self._check_shared(node, rule)
        before = self.made.get(self.value[inputs[0]])
        normalised = before is not None and _normalises(before, self.value[inputs[0]])
        if before is not None and normalised and isinstance(rule, ReLU) and len(inputs[0].users) == 1:
            before.rule.relu = True
            self.value[node] = before.output
            return
        if isinstance(rule, MaxPool) and before and before.output == self.value[inputs[0]]:
            rule.relu = isinstance(before.rule, ReLU) or getattr(before.rule, "relu", False)  # relu(relu(x)) = relu(x)
            if isinstance(before.rule, ReLU) and len(inputs[0].users) == 1:  # its step becomes the pooling's
                before.node, before.rule, self.value[node] = node, rule, before.output
                return
        rule.overwrite = next((i for i, argument in enumerate(inputs) if self._may_overwrite(argument)), None)
        step = Step(node, self._new(), rule, tuple(self.value[argument] for argument in inputs), constants)
        self.value[node], self.made[step.output] = step.output, step
        if isinstance(rule, BatchNorm) and before and isinstance(before.rule, Add):
            self._take_sum(step, before, inputs[0])
        self.steps.append(step)

    def _take_sum(self, step: Step, addition: Step, total: fx.Node):
        """A BatchNorm right after a sum, before anybody else looks at it, makes the sum itself."""
        if any(self.order[user] < self.order[step.node] for user in total.users) or not step.node.users:
            return
        self.steps.remove(addition)
        step.rule.add, step.inputs, self.made[addition.output] = addition.rule, addition.inputs, step
        step.total = addition.output if len(total.users) > 1 else None

    def _new(self) -> int:
        self.count += 1
        return self.count - 1

    def _add_constant(self, node):
        self.constant[node] = self._new()
        self.steps.append(Step(node, self.constant[node]))

    def _module(self, node):
        module = self.model.get_submodule(node.target)
        make = rules.MODULES.get(type(module))
        if make is None or len(node.args) != 1 or node.kwargs:
            raise Unmatched(_called(node.target, module))
        return self._made(node, make, module, self.weights), node.args, ()

    def _call(self, node):
        table = rules.METHODS if node.op == "call_method" else rules.FUNCTIONS
        make: Any = table.get(node.target)
        args = node.args
        if make is None:
            raise Unmatched(f"{_target(node)} (node {node.name!r})")
        inputs = tuple(a for a in args[:2] if isinstance(a, fx.Node) and a in self.value)
        if make is Add or getattr(make, "__self__", None) is Affine:
            return self._arithmetic(node, make, inputs)
        if len(inputs) != 1 or args[0] is not inputs[0]:
            raise Unmatched(f"{_target(node)} (node {node.name!r}) with these arguments")
        if make is Reshape:
            if node.kwargs or any(isinstance(size, torch.dtype) for size in args[1:]):
                raise Unmatched(f"{_target(node)} (node {node.name!r}) with these arguments")
            return Reshape(), inputs, tuple(args[1:])
        return self._made(node, make, *args[1:], **node.kwargs), inputs, ()

    def _arithmetic(self, node, make, inputs):
        args = node.args
        if len(args) != 2 or node.kwargs:
            raise Unmatched(f"{_target(node)} (node {node.name!r}) with these arguments")
        if len(inputs) == 2:
            if make is not Add:
                raise Unmatched(f"{_target(node)} of two activations (node {node.name!r})")
            return Add(), inputs, ()
        reflected = args[0] is not inputs[0]
        rule = Affine.add() if make is Add else self._made(node, make, reflected)
        return rule, inputs, (args[0] if reflected else args[1],)

    def _made(self, node, make: Callable, *args, **kwargs):
        try:
            return make(*args, **kwargs)
        except Unmatched as why:
            raise Unmatched(f"{why} (node {node.name!r})") from None
        except TypeError:
            raise Unmatched(f"{_target(node)} (node {node.name!r}) with these arguments") from None

    def _check_shared(self, node, rule):
        for p in rule.parameters:
            if id(p) in self.seen:
                raise Unmatched(f"{_target(node)}, whose parameters are used twice")
            self.seen.add(id(p))

    def _check_in_place(self, node):
        """An in-place operation is like another one where nobody looks at the overwritten memory later."""
        written, aliases = self._memory(node.args[0]), [node.args[0]]
        aliases += [other for other in self.value if self._memory(other) is written]
        for other in aliases:
            if any(self.order[user] > self.order[node] for user in other.users):
                raise Unmatched(f"{_target(node)} (node {node.name!r}) in place on a value that is used again")

    def _memory(self, node):
        """The node whose memory a chain of views shows."""
        step = self.made.get(self.value.get(node, -1))
        while step is not None and step.rule.VIEW and step.node is node:
            node = node.args[0]
            step = self.made.get(self.value[node])
        return node

    def _may_overwrite(self, node) -> bool:
        step = self.made.get(self.value[node])
        return step is not None and len(node.users) == 1 and not step.rule.KEEPS_OUTPUT and not step.rule.VIEW

    def _constant_inputs(self, step) -> list[int]:
        if step.rule is None:
            return [self.value[n] if n in self.value else self.constant[n] for n in step.node.all_input_nodes]
        return [self.constant[n] for n in step.node.all_input_nodes if n in self.constant]


def _normalises(step: Step, value: int) -> bool:
    return isinstance(step.rule, BatchNorm) and step.output == value


def _is_size(node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is getattr and node.args[1] in ("shape", "ndim", "device", "dtype")


def _in_place(node, model) -> bool:
    if node.op == "call_module":
        return getattr(model.get_submodule(node.target), "inplace", False)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.endswith("_") or node.target in _IN_PLACE or bool(node.kwargs.get("inplace"))


def _target(node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
