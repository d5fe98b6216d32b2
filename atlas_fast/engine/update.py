"""The end of a step: parameters and running statistics move on, or all stay where a gradient is not finite."""

from __future__ import annotations

import torch

from .gradients import FlatGradients
from .loss_scale import LossScale
from .optimizer_step import OptimizerStep
from .ranks import Ranks
from .running_statistics import RunningStatistics


class Update:
    """skipped: how many steps were not finite, 0-d int64 on the device; flat: memory of the gradients, None until the
    first step has shown which parameters get one. parts: how many means over parts of the batch .grad is the sum of;
    scale: what the gradients are multiplied by, None: nothing."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, parts: int = 1,
                 scale: LossScale | None = None):
        self._model, self.optimizer, self._ranks, self._parts = model, OptimizerStep(optimizer), ranks, parts
        self._scale = scale
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
        if self._scale is not None:
            self._scale.start()
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
            if self._scale is not None:
                buffer.div_(self._scale.value * self._parts)
            elif self._parts > 1:
                buffer.mul_(1 / self._parts)
            self._ranks.average(buffer)

    def share_direction(self) -> None:
        """`share`, for weights that move along the gradients: where those have overflowed they are zero."""
        self.share()
        if self._scale is not None and self.flat is not None:
            self._scale.note(overflowed := self.flat.not_finite())
            for buffer in self.flat.buffers:
                buffer.masked_fill_(overflowed, 0.0)

    def finish(self, loss: torch.Tensor) -> torch.Tensor | None:
        """One step of the optimiser by the gradients, unless one of them is not finite. loss: of this step, 0-d.

        Returns whether that was so, 0-d bool on the device; None where nothing has a gradient.
        """
        self.share()
        if self.flat is None:
            return None
        unusable = not_finite = self.flat.not_finite()
        if self._scale is not None:
            unusable, not_finite = self._scale.settle(unusable, loss)
        if self.optimizer.on_device:
            self.optimizer(unusable)
            self._statistics.restore_if(unusable)
            self.skipped.add_(not_finite)
        elif unusable.item():
            self._statistics.restore()
            self.skipped.add_(not_finite)
        else:
            self.optimizer.optimizer.step()
        return unusable

    def _gather(self) -> None:
        """Put gradients that lie elsewhere into the one buffer."""
        have = [p for p in self._model.parameters() if p.grad is not None]
        slots = {} if self.flat is None else self.flat.slots
        if any(p not in slots for p in have):
            self.flat = FlatGradients(have)
            gradients = [p.grad for p in self.flat.slots if p.grad is not None]
            torch._foreach_copy_(list(self.flat.slots.values()), gradients)
            self.flat.attach()
