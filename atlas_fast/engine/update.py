"""The end of a step: parameters and running statistics move on, or all stay where a gradient is not finite."""

from __future__ import annotations

import torch

from .gradients import FlatGradients
from .optimizer_step import OptimizerStep
from .ranks import Ranks
from .running_statistics import RunningStatistics


class Update:
    """skipped: how many steps were unusable, 0-d int64 on the device; flat: memory of the gradients, None until the
    first step has shown which parameters get one. parts: how many means over parts of the batch .grad is the sum of."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, parts: int = 1):
        self._model, self.optimizer, self._ranks, self._parts = model, OptimizerStep(optimizer), ranks, parts
        self._statistics = RunningStatistics(model)
        self.flat: FlatGradients | None = None
        self.skipped = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)

    def before(self) -> None:
        """What the host does ahead of a step."""
        if self.optimizer.on_device:
            self.optimizer.prepare()
        for parameter in self._model.parameters():
            if self.flat is None or parameter not in self.flat.slots:
                parameter.grad = None
        if self.flat is not None:
            self.flat.attach()

    def start(self) -> None:
        """Gradients are zero, and the running statistics are remembered."""
        if self.flat is not None:
            self.flat.zero()
        self._statistics.keep()

    def again(self) -> None:
        """Gradients are zero, and the running statistics are those that `start` saw."""
        for parameter in self._model.parameters():
            if self.flat is None or parameter not in self.flat.slots:
                parameter.grad = None
        if self.flat is not None:
            self.flat.zero()
        self._statistics.restore()

    def share(self) -> None:
        """Gradients are the mean over the parts and all processes: one message for the whole network, the same bits
        everywhere, so that all decide alike what follows from them."""
        self._gather()
        for buffer in () if self.flat is None else self.flat.buffers:
            if self._parts > 1:
                buffer.mul_(1 / self._parts)
            self._ranks.average(buffer)

    def finish(self) -> torch.Tensor | None:
        """One step of the optimiser by the gradients, unless one of them is not finite.

        Returns whether that was so, 0-d bool on the device; None where nothing has a gradient.
        """
        self.share()
        if self.flat is None:
            return None
        unusable = self.flat.not_finite()
        if self.optimizer.on_device:
            self.optimizer(unusable)
            self._statistics.restore_if(unusable)
            self.skipped.add_(unusable)
        elif unusable.item():
            self._statistics.restore()
            self.skipped.add_(1)
        else:
            self.optimizer.optimizer.step()
        return unusable

    def _gather(self) -> None:
        """Put gradients that lie elsewhere into the one buffer."""
        have = [p for p in self._model.parameters() if p.grad is not None]
        slots = {} if self.flat is None else self.flat.slots
        if any(p not in slots for p in have):
            self.flat = FlatGradients(have)
            torch._foreach_copy_(list(self.flat.slots.values()), [p.grad for p in self.flat.slots])
            self.flat.attach()
