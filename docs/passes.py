"""What a training step of a method runs, counted while one runs: engine and passes over the network."""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_fast.training.config import Config, resolve
from atlas_fast.training.setup import make_step
from bench.harness import markdown

LAYERS, WIDTH, SIDE, BATCH = 2, 32, 4, 2
ADDITIONS = {"awp": {"method": "adv", "awp": 0.01}, "ema": {"method": "adv", "ema": 0.999}}
"""What combines with any method, shown with one."""

aten = torch.ops.aten


class _Counter(TorchDispatchMode):
    """Passes through the layers behind the first one (YOPO's inner steps stay in the first), in batches."""

    def __init__(self):
        super().__init__()
        self.images: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is aten.convolution.default and args[1].shape[1] == WIDTH:
            self.images["forward"] += len(args[0])
        elif function is aten.convolution_backward.default and args[2].shape[1] == WIDTH:
            for wanted, kind in zip(args[10], ("to inputs", "to weights"), strict=False):
                self.images[kind] += wanted * len(args[0])
        return function(*args, **(kwargs or {}))


def network() -> nn.Module:
    hidden = [layer for _ in range(LAYERS) for layer in (nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), *hidden, nn.AvgPool2d(SIDE), nn.Flatten(),
                         nn.Linear(WIDTH, 10)).train()


def count(config: Config) -> dict[str, Any]:
    """{"class", "engine", "forward", "to inputs", "to weights", "sum"} of one step by --engine auto; a pass over the
    whole network counts 1. NuAT, whose adversary changes from step to step, has the mean of two."""
    torch.manual_seed(0)
    model = network()
    step = make_step(config, model, torch.optim.SGD(model.parameters(), lr=0.01))
    x, y = torch.rand(BATCH, 3, SIDE, SIDE), torch.randint(10, (BATCH,))
    step(x, y)  # what is looked up once stays out of the count
    steps = 2 if config.method == "nuat" else 1
    with _Counter() as counter:
        for _ in range(steps):
            step(x, y)
    passes = {kind: counter.images[kind] / (steps * BATCH * LAYERS) for kind in ("forward", "to inputs", "to weights")}
    return {"class": type(step).__name__, "engine": step.engine, **passes, "sum": sum(passes.values())}


def settings(name: str) -> list[dict]:
    """The method with its default number of steps on CIFAR-10, and with ten where it takes another number."""
    given = {"dataset": "cifar10", "device": "cpu", "augment": "none", **ADDITIONS.get(name, {"method": name})}
    default = resolve(given)
    if default.steps in (0, 10) or given["method"] in ("n_fgsm", "grad_align", "free", "yopo"):
        return [given]
    return [given, {**given, "steps": 10}]


def section(name: str) -> str:
    """The page's section."""
    rows = []
    for given in settings(name):
        config = resolve(given)
        found = count(config)
        rows.append({"adversary's steps": config.steps, "class": f"`atlas_fast.{found['class']}`",
                     "engine": f"`{found['engine']}`", **{kind: f"{found[kind]:g}" for kind in
                                                         ("forward", "to inputs", "to weights", "sum")}})
    lone = ", YOPO's inner steps, which stay in the first layer, left out" if name == "yopo" else ""
    return (f"## Engine and passes\n{markdown(rows, list(rows[0]))}\n\nCounted while this page was built: what a step "
            "runs by `engine=\"auto\"` on a small network of convolutions without BatchNorm on a CPU, in passes of the "
            f"whole batch through the network{lone}. A forward pass, a backward pass to the inputs and one to the "
            "weights cost about the same each.")
