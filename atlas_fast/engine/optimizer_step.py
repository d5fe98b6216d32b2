"""A fused optimiser's step that the device skips where a gradient is not finite, and what a graph freezes of it."""

from __future__ import annotations

from typing import Any

import torch


class OptimizerStep:
    """on_device: the optimiser is fused, so that it takes the flag and the learning rate from the device."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer: Any = optimizer  # found_inf is given to it from outside, as by torch.amp.GradScaler
        self._rates: list[torch.Tensor] = []

    @property
    def on_device(self) -> bool:
        fused = all(group.get("fused") for group in self.optimizer.param_groups)
        return fused and getattr(self.optimizer, "_step_supports_amp_scaling", False)

    @property
    def why_not_capturable(self) -> str | None:
        """Why it cannot be part of a CUDA graph, one sentence; None where it can."""
        name, groups = type(self.optimizer).__name__, self.optimizer.param_groups
        if not self.on_device:
            return f"the optimizer {name} decides on the host; make it with fused=True"
        if not all(group.get("capturable", True) for group in groups):
            return f"the optimizer {name} is not capturable; make it with capturable=True"
        if any(group.get("momentum") and group.get("dampening") for group in groups):
            return f"the first step of the optimizer {name} with dampening differs from the others"
        if any(getattr(self.optimizer, hooks, None)
               for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")):
            return f"the optimizer {name} has hooks"
        return None

    def prepare(self) -> None:
        """Learning rates as scalars on the device; call before each step, since a schedule may have set numbers.

        Momentum buffers exist from the beginning: created by a first step that is skipped they would hold garbage.
        """
        groups = self.optimizer.param_groups
        for i, group in enumerate(groups):
            parameter, rate = group["params"][0], group["lr"]
            if len(self._rates) <= i:
                self._rates.append(torch.zeros((), dtype=torch.float32, device=parameter.device))
            if rate is not self._rates[i]:
                self._rates[i].fill_(rate)
                group["lr"] = self._rates[i]
            if group.get("momentum") and not group.get("dampening") and isinstance(self.optimizer, torch.optim.SGD):
                for p in group["params"]:
                    if p.requires_grad and self.optimizer.state[p].get("momentum_buffer") is None:
                        self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def __call__(self, unusable: torch.Tensor) -> None:
        """One step of the optimiser, or none where the 0-d flag is true; only where it is on_device."""
        self.optimizer.found_inf = unusable.to(torch.float32)
        try:
            self.optimizer.step()
        finally:
            del self.optimizer.found_inf

    def settings(self) -> tuple:
        """What a graph has frozen: numbers other than learning rates, and where the state lies."""
        numbers = tuple((k, _place(v)) for group in self.optimizer.param_groups for k, v in group.items()
                        if k not in ("params", "lr"))
        return numbers, tuple(_place(v) for state in self.optimizer.state.values() for v in state.values())


def _place(value):
    return value.data_ptr() if isinstance(value, torch.Tensor) else value
