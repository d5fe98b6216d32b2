"""A classifier as attacks see it: logits, and gradients of functions of the logits with respect to the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import UserError
from .checks import check_output, explained

# d sum(function of the logits) / d logits: detached logits [N, C] -> [N, C]
Cotangent = Callable[[torch.Tensor], torch.Tensor]


class Network:
    """logits and image gradients of a model, in the mode it is in; no weight gradient is ever computed.

    model: images [N, ...] in [0, 1] -> logits [N, C], or another Network, whose passes this one then uses (attacks make
    one of whatever they are given). passes: how they run, by default PyTorch's autograd; `engine.fast_network` makes a
    Network with faster ones. forwards, backwards: images that went through this Network so far.
    """

    def __init__(self, model: torch.nn.Module | Network, passes: Any = None):
        if isinstance(model, Network):
            model, passes = model.model, passes or model.passes
        self.model: torch.nn.Module = model
        self.passes = passes or AutogradPasses(model)
        self.forwards = self.backwards = 0

    @property
    def exact(self) -> bool:
        """Whether `gradient` works in the model's precision; `logits` always does."""
        return self.passes.exact

    @torch.no_grad()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C]. Raises UserError for a model that returns something else."""
        self.forwards += len(x)
        return self.passes.logits(x.detach())

    __call__ = logits

    def gradient(self, x: torch.Tensor, cotangent: Cotangent) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [N, C], gradient like x) of the sum over samples of a function of the logits.

        cotangent: detached logits -> d function / d logits [N, C]; a sum, not a mean, since 1/N carries the gradients
        of a confident network towards 0. Raises UserError where the logits do not depend on x differentiably.
        """
        self.forwards, self.backwards = self.forwards + len(x), self.backwards + len(x)
        logits, backward = self.passes.forward(x.detach())
        with torch.no_grad():
            return logits, backward(cotangent(logits))


class AutogradPasses:
    """Of any callable, by PyTorch. amp: the dtype of autocast in `forward`, or None."""

    def __init__(self, model: torch.nn.Module, amp: torch.dtype | None = None):
        self._model, self._amp, self.exact = model, amp, amp is None

    @torch.no_grad()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        with explained(self._model, x):
            return checked(self._model(x), x)

    @torch.enable_grad()
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """(logits [N, C] in x's dtype, d / d logits [N, C] -> gradient like x)."""
        x = x.detach().requires_grad_()
        with torch.autocast(x.device.type, self._amp, enabled=self._amp is not None), explained(self._model, x):
            logits = checked(self._model(x), x)
        if self._amp is not None:
            logits = logits.to(x.dtype)
        if not logits.requires_grad:
            raise UserError(_NO_GRADIENT)
        return logits.detach(), lambda cotangent: _gradient(logits, x, cotangent)


_NO_GRADIENT = "the model's output does not depend on x differentiably, so there is no gradient to ascend"


def _gradient(logits: torch.Tensor, x: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(logits, x, cotangent, allow_unused=True)
    if gradient is None:  # detached on the way, though the weights make the logits require grad
        raise UserError(_NO_GRADIENT)
    return gradient


def checked(logits, x: torch.Tensor) -> torch.Tensor:
    """`logits` where they are [N, C], or UserError."""
    check_output(logits, len(x))
    return logits
