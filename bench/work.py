"""How much a training step has to do: floating-point operations, and bytes through memory. Nothing is timed here.

In units of one forward pass F of the network over the batch, with k sign steps, n points of the loss (x', x) and P
projections of the Jacobian term:

    forward    k + n + P   attack, points, and the tangent pass that carries the Jacobian term to the weights
    to images  k + P       backward to the images alone: attack, v^T J
    inner      n           input gradients of the weights' backward pass (not of the first layer)
    weights    n + P       weight gradients; P more for the pairs (tangent, v^T J's adjoints)

    2 k + 3 n + 3 P        plain 3, adv 5, jac 6, trades, atlas_l, atlas_g 8, atlas, tradesjac 11; 2 more per sign step

An adversary that ascends KL(p(x) || p(x')) needs p(x) while it is made. With BatchNorm in train mode that forward pass
is the loss's own, so it is no part of the need; programs that run it twice execute F more (`clean_forward`).
"""

from __future__ import annotations

import collections
import copy
import dataclasses

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from atlas_fast.objectives import Objective

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Passes:
    """Passes over the network that a step needs; `total` in forward-equivalents."""

    forward: int
    to_images: int
    inner: int
    weights: int
    clean_forward: int  # 1 where an adversary by KL needs p(x): shared with the loss's pass, or executed again

    @property
    def total(self) -> int:
        return self.forward + self.to_images + self.inner + self.weights


def passes(objective: Objective) -> Passes:
    crafting, n = objective.crafting(), len(objective.points)
    k = crafting.steps if crafting else 0
    p = objective.num_projections if objective.penalised_point else 0
    return Passes(k + n + p, k + p, n, n + p, 1 if crafting and crafting.ascends == "kl" else 0)


def forward_flops(model: nn.Module, shape) -> int:
    """Floating-point operations of one forward pass on images of this shape, by PyTorch's counter (on `meta`)."""
    with FlopCounterMode(display=False) as counter:
        _on_meta(model, shape)
    return counter.get_total_flops()


def flops(objective: Objective, model: nn.Module, shape) -> int:
    """What a step needs; the first layer's input gradient, which the weights' backward leaves out, is counted."""
    return passes(objective).total * forward_flops(model, shape)


def traffic(objective: Objective, model: nn.Module, shape, itemsize: int = 2) -> int:
    """Bytes that BatchNorm, ReLU and residual sums move when fused as far as library convolutions allow.

    Passes over the activations at a BatchNorm + ReLU site: 3 forward (statistics; read, write), 5 backward (two
    reductions over 2 tensors; 2 reads, 1 write), 8 tangent, 5 + 1 in the backward pass that also takes the second
    derivative's term; a residual sum reads 2 and writes 1 tensor in every pass. Networks without BatchNorm: their
    ReLUs are not counted, so it is a lower bound.
    """
    need, sites, sums = passes(objective), *activations(model, shape)
    n, p = need.inner, need.weights - need.inner
    over_sites = 3 * (need.forward - p) + 5 * need.to_images + 8 * p + 5 * n + p
    over_sums = 3 * (need.forward + need.to_images + need.inner)
    return itemsize * (over_sites * sites + over_sums * sums)


def activations(model: nn.Module, shape) -> tuple[int, int]:
    """Elements of a batch that pass BatchNorm, and elements of residual sums."""
    sites, sums = 0, _Sums()
    copied = _meta(model)

    def count(module, inputs, output):
        nonlocal sites
        sites += output.numel()

    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count)
    with sums, torch.no_grad():
        copied(torch.empty(shape, device="meta"))
    return sites, sums.elements


@dataclasses.dataclass(frozen=True)
class Convolution:
    """The geometry of a convolution; image: height and width of its input."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    image: tuple[int, int]
    first: bool  # reads the network's input

    @property
    def name(self) -> str:
        kernel, image = "x".join(map(str, self.kernel)), "x".join(map(str, self.image))
        stride = "" if max(self.stride) == 1 else f" stride {self.stride[0]}"
        return f"{self.in_channels}->{self.out_channels} {kernel}{stride} at {image}"


def convolutions(model: nn.Module, shape) -> collections.Counter[Convolution]:
    """Every convolution of a forward pass and how often it occurs."""
    counter = ConvolutionFlops()
    with counter:
        _on_meta(model, shape)
    return collections.Counter(counter.geometries)


class ConvolutionFlops(TorchDispatchMode):
    """Floating-point operations of the convolutions that run inside, in `flops` by kind.

    "forward", "input gradient", "weight gradient", and "weight gradient as a forward convolution": what PyTorch's
    double backward emits, a forward convolution whose kernel is as large as the image (here: beyond `largest`).
    Only "forward" is also listed in `geometries`.
    """

    def __init__(self, largest: int = 7):
        super().__init__()
        self.largest, self.flops, self.geometries = largest, collections.Counter(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is aten.convolution.default:
            self._forward(out, *args)
        elif function is aten.convolution_backward.default:
            g, weight, mask = args[0], args[2], args[10]
            for wanted, kind in zip(mask, ("input gradient", "weight gradient"), strict=False):
                if wanted:
                    self.flops[kind] += 2 * g.numel() * weight[0].numel()
        return out

    def _forward(self, out, x, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
        kernel, stock = tuple(weight.shape[2:]), max(weight.shape[2:]) > self.largest
        kind = "weight gradient as a forward convolution" if stock else "forward"
        self.flops[kind] += 2 * out.numel() * weight[0].numel()
        if not stock:
            self.geometries.append(Convolution(x.shape[1], weight.shape[0], kernel, tuple(stride), tuple(padding),
                                               tuple(dilation), groups, tuple(x.shape[2:]), not self.geometries))


class _Sums(TorchDispatchMode):
    """Elements of the sums of two feature maps."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in (aten.add.Tensor, aten.add_.Tensor) and out.dim() == 4:
            self.elements += out.numel()
        return out


def _meta(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("meta")


def _on_meta(model: nn.Module, shape) -> None:
    with torch.no_grad():
        _meta(model)(torch.empty(shape, device="meta"))
