"""What the benchmarks of a step run: a method with the paper's CIFAR-10 settings, a network, a batch."""

from __future__ import annotations

import dataclasses

import torch

import atlas_fast as af
from atlas_fast.attacks.ascend import default_step_size
from atlas_fast.objectives import Objective
from atlas_fast.training.defaults import DEFAULTS

EPS = DEFAULTS["cifar10"].eps


@dataclasses.dataclass(frozen=True)
class Workload:
    """name: as on the command line; method: a row of the paper's table; steps of the adversary (0: none)."""

    name: str
    method: str
    steps: int

    @property
    def weights(self) -> dict[str, float]:
        """{"alpha", "beta"}, those that the method has."""
        return DEFAULTS["cifar10"].weights[self.method][self.steps > 1]

    @property
    def objective(self) -> Objective:
        adversary = {"eps": EPS, "steps": self.steps} if self.steps else {}
        return af.objectives.create(self.method, **adversary, **self.weights)

    @property
    def step_size(self) -> float:
        return default_step_size(EPS, max(self.steps, 1))


def workload(name: str) -> Workload:
    """"atlas": one step; "atlas-10": ten; "jac" and "plain": none. SystemExit(2) for an unknown name."""
    method, _, steps = name.partition("-")
    without = method in ("plain", "jac")
    if method not in af.objectives.PAPER or (steps and (without or not steps.isdecimal() or int(steps) < 1)):
        print(f"no method is called {name!r}: {', '.join(af.objectives.PAPER)}, or e.g. atlas-10 for ten steps")
        raise SystemExit(2)
    return Workload(name, method, 0 if without else int(steps or 1))


def shape(model_name: str) -> tuple[int, int]:
    """(channels, pixels) of the images that the benchmarks feed a network."""
    return (1, 28) if model_name == "small_cnn" else (3, 32)


def network(model_name: str, device: str = "cpu") -> torch.nn.Module:
    torch.manual_seed(0)
    return af.models.create(model_name, 10, *shape(model_name)).to(device).train()


def batch(model_name: str, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [size, C, H, W] uniform in [0, 1], labels."""
    channels, pixels = shape(model_name)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(size, channels, pixels, pixels, generator=generator)
    return x.to(device), torch.randint(10, (size,), generator=generator).to(device)


def sgd(model: torch.nn.Module) -> torch.optim.SGD:
    """The same optimiser for every variant, reference included: fused where PyTorch has that, on CUDA."""
    device = next(model.parameters()).device.type
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-4, fused=device == "cuda")
