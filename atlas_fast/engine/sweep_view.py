"""A view of a traced network that runs its passes explicitly, without autograd; the interface is in `program`."""

from __future__ import annotations

import contextlib

import torch

from ..attacks.statistics import check_bn_mode, norm_layers, statistics_kept
from ..errors import UserError
from .graph import build
from .known_gradient import KnownGradient
from .rules import Unmatched
from .sweeps import Gradients, Sweeps


def unsupported(model: torch.nn.Module) -> str | None:
    """Why SweepView cannot run this model in its present mode, one sentence; None where it can."""
    try:
        build(model)
    except Unmatched as why:
        return f"the sweeps have no rule for {why}"
    return None


class SweepView:
    """model: images [N, C, H, W] -> logits [N, C]; bn_mode: BatchNorm while crafting, "train" or "eval".

    amp: None, or the dtype (torch.bfloat16) of convolutions and linear layers; images, weights, statistics and
    gradients of weights stay float32. Raises UserError for a model that `unsupported` names.
    """

    def __init__(self, model: torch.nn.Module, bn_mode: str = "train", amp: torch.dtype | None = None):
        self.model, self.bn_mode, self.amp = model, check_bn_mode(bn_mode), amp
        self._norm_layers = norm_layers(model)
        self._moded = [m for m in model.modules() if m not in set(self._norm_layers)]
        self._trace()

    def _trace(self) -> None:
        self._modes = [m.training for m in self._moded]
        try:
            self._network = build(self.model, self.amp)
        except Unmatched as why:
            raise UserError(f"the sweeps have no rule for {why}; use engine='autograd'") from None

    def crafting(self) -> contextlib.AbstractContextManager:
        """Inside, running statistics stay as they are."""
        return statistics_kept(self._norm_layers, self.bn_mode)

    @torch.no_grad()
    def forward(self, images: dict[str, torch.Tensor], wrt: tuple[str, ...] = ()) -> Tape:
        """One pass per point, in the dict's order; every point's input gradient may be asked, whatever `wrt` says."""
        if [m.training for m in self._moded] != self._modes:  # what forward() does may depend on it
            self._trace()
        return Tape({point: Sweeps(self._network, x.detach()) for point, x in images.items()})


class Tape:
    """The record of forward passes; see `program` for what each method is for."""

    def __init__(self, sweeps: dict[str, Sweeps]):
        self._sweeps, self._grads = sweeps, Gradients()
        self._recorded: dict[str, list] = {}

    @property
    def logits(self) -> dict[str, torch.Tensor]:
        return {point: sweeps.logits for point, sweeps in self._sweeps.items()}

    @torch.no_grad()
    def backward(self, cotangents: dict[str, torch.Tensor], *, weights: bool, record: bool = False):
        """Backward from the logits of some points.

        weights False: to the input images only, returned as {point: gradient}; the tape is used up unless record is
        True, which keeps what `tangent` needs and takes [K, N, C] cotangents for K passes ([K, N, ...] gradients).
        weights True: to the parameters' .grad, together with all tangents.
        """
        if weights:
            for parameter, value in self._weight_gradients(cotangents).items():
                if parameter.grad is None:
                    parameter.grad = value
                else:
                    parameter.grad.add_(value)
            return None
        if record:
            return {point: self._record(point, v) for point, v in cotangents.items()}
        return {point: self._sweeps[point].to_images(v)[0] for point, v in cotangents.items()}

    def _record(self, point: str, directions: torch.Tensor) -> torch.Tensor:
        sweeps = self._sweeps[point]
        passes = [sweeps.to_images(v, record=True) for v in directions.to(sweeps.logits.dtype)]
        self._recorded[point] = [recorded for _, recorded in passes]
        return passes[0][0][None] if len(passes) == 1 else torch.stack([g for g, _ in passes])

    @torch.no_grad()
    def tangent(self, point: str, u: torch.Tensor) -> None:
        """u: d loss / dg for the g that `backward(record=True)` returned; its weight gradients join the last pass."""
        for recorded, direction in zip(self._recorded.pop(point), u, strict=True):
            self._sweeps[point].tangent(recorded, direction, self._grads)

    def differentiable(self, loss: torch.Tensor, dlogits: dict[str, torch.Tensor]) -> torch.Tensor:
        """`loss` with a graph: its backward runs the pass that `backward(dlogits, weights=True)` would run."""
        with torch.no_grad():
            gradients = self._weight_gradients(dlogits)
        return KnownGradient.apply(loss, list(gradients.values()), *gradients)

    def _weight_gradients(self, dlogits):
        for point, sweeps in self._sweeps.items():
            sweeps.to_weights(dlogits.get(point), self._grads)
        return self._grads.pop()
