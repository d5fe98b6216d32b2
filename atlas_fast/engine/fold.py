"""A copy of a network for eval mode that computes the same with fewer passes over memory.

BatchNorm is folded into the convolution before it, in float64:

    BN(w * x + b) = (s w) * x + s (b - mean) + beta,   s = gamma (var + eps)^-1/2.

One that follows something else stays: with running statistics it is one affine pass already, and the sweeps run it
together with the sum before it and the ReLU after it. Convolutions run channels-last, which both oneDNN and cuDNN
prefer (1.3 times faster for WRN-10-1 and 1.3 to 1.4 times for small_cnn's convolutions on one core of a Xeon with
AVX-512). A linear layer behind them reads the channels-last order directly: its columns are permuted instead of the
activations, and the gradients on their way back. On a CPU its weight lies transposed in memory: for 8 to 64 images that
takes 0.25 to 0.5 of the time of logits, and as long for gradients (3136 to 128 units, same core).
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import fx, nn

from .graph import trace
from .rules import Unmatched


def folded(model: nn.Module) -> fx.GraphModule:
    """A copy in eval mode with the logits of `model.eval()`; later changes of the model do not reach it.

    Raises Unmatched for a model that cannot be copied or traced.
    """
    try:
        model = copy.deepcopy(model).eval().requires_grad_(False)
    except Exception as error:  # whatever a user's module may hold
        raise Unmatched(f"{type(model).__name__}, which cannot be copied") from error
    network = _Folding(fx.GraphModule(model, trace(model)))
    for change in (network.fold_norm, network.permute_linear):
        for node in list(network.graph.nodes):
            change(node)
    network.lay_out()
    return network.finished()


M = TypeVar("M", bound=nn.Module)


class _Folding:
    def __init__(self, network: fx.GraphModule):
        self._network, self.graph, self._modules = network, network.graph, dict(network.named_modules())

    def finished(self) -> fx.GraphModule:
        self.graph.lint()
        self._network.recompile()
        return self._network

    def _module(self, node, kind: type[M]) -> M | None:
        """The module of a node that calls one of this kind, where no other node calls it."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        module = self._modules[node.target]
        calls = [n for n in self.graph.nodes if n.op == "call_module" and self._modules[n.target] is module]
        return module if isinstance(module, kind) and type(module) is kind and len(calls) == 1 else None

    def fold_norm(self, node: fx.Node) -> None:
        norm = self._module(node, nn.BatchNorm2d)
        before = node.args[0] if norm is not None and node.args else None
        convolution = self._module(before, nn.Conv2d)
        if norm is None or convolution is None or norm.running_mean is None or not isinstance(before, fx.Node):
            return
        if len(before.users) == 1:
            _fold(convolution, norm)
            node.replace_all_uses_with(before)
            self.graph.erase_node(node)

    def permute_linear(self, node: fx.Node) -> None:
        """flatten(x), linear with x channels-last: flatten(x.permute(0, 2, 3, 1)), linear with permuted columns."""
        after = next(iter(node.users)) if len(node.users) == 1 else None
        linear, channels = self._module(after, nn.Linear), self._flattened_channels(node)
        if linear is None or not channels or linear.in_features % channels:
            return
        columns = linear.weight.data.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
        linear.weight.data = columns.contiguous()
        with self.graph.inserting_before(node):
            moved = self.graph.call_method("permute", (node.args[0], 0, 2, 3, 1))
            flat = self.graph.call_method("flatten", (moved, 1))
        node.replace_all_uses_with(flat)
        self.graph.erase_node(node)

    def _flattened_channels(self, node: fx.Node) -> int | None:
        """How many channels of images a node flattens; None for other nodes and where that is not certain."""
        module = self._module(node, nn.Flatten)
        if module is not None:
            flattens = (module.start_dim, module.end_dim) == (1, -1)
        else:
            flattens = node.target in (torch.flatten, "flatten") and node.args[1:] == (1,) and not node.kwargs
        before: Any = node.args[0] if flattens else None
        while isinstance(before, fx.Node) and not _is(before, self._modules, nn.Conv2d):
            before = before.args[0] if _keeps_channels(before, self._modules) else None
        return None if before is None else self._modules[before.target].out_channels

    def lay_out(self) -> None:
        for module in self._network.modules():
            if type(module) is nn.Conv2d:
                module.weight.data = _channels_last(module.weight.data)
            elif type(module) is nn.Linear and module.weight.device.type == "cpu":
                module.weight.data = module.weight.data.t().contiguous().t()


_SAME_CHANNELS = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d,
                  nn.Identity)
_SAME_CHANNELS_CALLS = (torch.relu, F.relu, F.max_pool2d, torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, "relu",
                        "relu_")


def _is(node: fx.Node, modules: dict, *kinds: type) -> bool:
    return node.op == "call_module" and type(modules[node.target]) in kinds


def _keeps_channels(node: fx.Node, modules: dict) -> bool:
    """Images [N, C, H, W] come out with the C that they went in with."""
    return _is(node, modules, *_SAME_CHANNELS) or node.target in _SAME_CHANNELS_CALLS


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    weight, wide = convolution.weight, torch.float64
    assert norm.running_mean is not None and norm.running_var is not None  # fold_norm asked
    scale = (norm.running_var.to(wide) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.to(wide)
    bias = 0.0 if convolution.bias is None else convolution.bias.to(wide)
    shift = scale * (bias - norm.running_mean.to(wide))
    if norm.bias is not None:
        shift = shift + norm.bias.to(wide)
    convolution.weight.data = (weight.to(wide) * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def _channels_last(weight: torch.Tensor) -> torch.Tensor:
    """In its strides too where a dimension of size 1 leaves them open, so that convolutions see what is meant."""
    out, channels, height, width = weight.shape
    strides = (channels * height * width, 1, width * channels, channels)
    return torch.empty_strided(weight.shape, strides, dtype=weight.dtype, device=weight.device).copy_(weight)
