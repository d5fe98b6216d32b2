"""What the models share: the optional first layer and the initialisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

Channels = tuple[Sequence[float], Sequence[float]]
"""(mean, std), a value per channel, in [0, 1] units."""


class Normalize(nn.Module):
    """(x - mean) / std per channel, as the network's first layer, so that eps stays in pixel units outside."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def he_init(model: nn.Module) -> None:
    """He et al. 2015: convolutions normal with variance 2/fan_out, linear layers 2/fan_in for hidden ones and
    1/fan_in for the last, biases 0. Draws from torch's default generator, so a seed fixes the weights."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            last = module is linears[-1]
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if last else "relu")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
