"""A view of a traced network that runs its passes explicitly, without autograd; the interface is in `program`."""

from __future__ import annotations

import contextlib

import torch

from ..attacks.checks import explained
from ..attacks.statistics import check_bn_mode, norm_layers, statistics_kept
from ..errors import UserError
from .beside import Beside
from .gradients import Gradients
from .graph import build
from .known_gradient import KnownGradient
from .low_precision import LowPrecision
from .ranks import Ranks
from .recomputed import segments
from .rules import BatchNorm, Unmatched
from .sweeps import Sweeps


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
    gradients of weights stay float32. pair: run points of one size as one batch, where no step mixes samples; `paired`
    says whether that is so. beside: where convolutions compute weight gradients, None: in line. ranks: the processes
    that share the statistics of BatchNorm, each with an equal part of the batch, None: it has those of its own part.
    checkpoints: compute activations again rather than keep them (`recomputed`), point by point. Raises UserError for a
    model that `unsupported` names.
    """

    def __init__(self, model: torch.nn.Module, bn_mode: str = "train", amp: torch.dtype | None = None,
                 pair: bool = False, beside: Beside | None = None, ranks: Ranks | None = None,
                 checkpoints: bool = False):
        self.model, self.bn_mode, self.amp, self._pair = model, check_bn_mode(bn_mode), amp, pair
        self._beside, self._ranks, self._checkpoints = beside, ranks, checkpoints
        self._weights = None if amp is None else LowPrecision(amp)
        self.flat = None  # memory for weight gradients: `gradients.FlatGradients`
        self._norm_layers = norm_layers(model)
        self._moded = [m for m in model.modules() if m not in set(self._norm_layers)]
        self._trace()

    def _trace(self) -> None:
        self._modes = [m.training for m in self._moded]
        try:
            self._network = build(self.model, self._weights)
        except Unmatched as why:
            raise UserError(f"the sweeps have no rule for {why}; use engine='autograd'") from None
        for step in self._network.steps:
            if isinstance(step.rule, BatchNorm):
                step.rule.ranks = self._ranks
        self._segments = segments(self._network) if self._checkpoints else None

    @property
    def paired(self) -> bool:
        return self._pair and not self._checkpoints and self.inseparable is None

    @property
    def inseparable(self) -> str | None:
        """The first step of the network that may mix samples; None where batches can run as one."""
        return self._network.inseparable

    def start(self) -> None:
        """The weights are those of a new step."""
        if self._weights is not None:
            self._weights.refresh()

    def crafting(self) -> contextlib.AbstractContextManager:
        """Inside, running statistics stay as they are."""
        return statistics_kept(self._norm_layers, self.bn_mode)

    @torch.no_grad()
    def forward(self, images: dict[str, torch.Tensor], wrt: tuple[str, ...] = ()) -> Tape:
        """One pass for all points or one per point, statistics in the dict's order; every point's input gradient may
        be asked, whatever `wrt` says."""
        if [m.training for m in self._moded] != self._modes:  # what forward() does may depend on it
            self._trace()
        points, batches = list(images), [x.detach() for x in images.values()]
        with explained(self.model, batches[0]):
            if self.paired and len(points) > 1 and len({(x.shape, x.dtype) for x in batches}) == 1:
                whole = Sweeps(self._network, torch.cat(batches), groups=len(points))
                places = {point: (whole, group) for group, point in enumerate(points)}
            else:
                places = {point: (Sweeps(self._network, x, segments=self._segments), 0)
                          for point, x in zip(points, batches, strict=True)}
        return Tape(places, Gradients(flat=self.flat, beside=self._beside))


class Tape:
    """The record of forward passes; see `program` for what each method is for."""

    def __init__(self, places: dict[str, tuple[Sweeps, int]], grads: Gradients):
        self._places, self._grads = places, grads
        self._recorded: dict[str, list] = {}
        self.logits = {point: sweeps.logits.chunk(sweeps.groups)[group] for point, (sweeps, group) in places.items()}

    @torch.no_grad()
    def backward(self, cotangents: dict[str, torch.Tensor], *, weights: bool, record: bool = False,
                 images: bool = False):
        """Backward from the logits of some points.

        weights False: to the input images only, returned as {point: gradient}; the tape is used up unless record is
        True, which keeps what `tangent` needs and takes [K, N, C] cotangents for K passes ([K, N, ...] gradients).
        weights True: to the parameters' .grad, together with all tangents; images: of the same pass, the gradient of
        the one point's images, {point: gradient}.
        """
        if weights:
            gradients, adjoints = self._weight_gradients(cotangents, images)
            for parameter, value in gradients.items():
                if parameter.grad is None:
                    parameter.grad = value
                elif parameter.grad is not value:
                    parameter.grad.add_(value)
            return dict(zip(self._places, adjoints, strict=True)) if images else None
        if record:
            return {point: self._record(point, v) for point, v in cotangents.items()}
        return {point: self._pass(point, v)[0] for point, v in cotangents.items()}

    def _pass(self, point, cotangent, record=False):
        sweeps, group = self._places[point]
        return sweeps.to_images(cotangent, group, record)

    def _record(self, point: str, directions: torch.Tensor) -> torch.Tensor:
        passes = [self._pass(point, v, record=True) for v in directions.to(self.logits[point].dtype)]
        self._recorded[point] = [recorded for _, recorded in passes]
        return passes[0][0][None] if len(passes) == 1 else torch.stack([g for g, _ in passes])

    @torch.no_grad()
    def tangent(self, point: str, u: torch.Tensor) -> list[torch.Tensor]:
        """u: d loss / dg for the g that `backward(record=True)` returned; its weight gradients join the last pass.
        Returns J u, K times [N, C]."""
        return [self._places[point][0].tangent(recorded, direction, self._grads)
                for recorded, direction in zip(self._recorded.pop(point), u, strict=True)]

    def differentiable(self, loss: torch.Tensor, dlogits: dict[str, torch.Tensor]) -> torch.Tensor:
        """`loss` with a graph: its backward runs the pass that `backward(dlogits, weights=True)` would run."""
        with torch.no_grad():
            gradients, _ = self._weight_gradients(dlogits)
        return KnownGradient.apply(loss, list(gradients.values()), *gradients)

    def _weight_gradients(self, dlogits, images=False):
        by_sweeps: dict[int, tuple[Sweeps, list]] = {}
        for point, (sweeps, _) in self._places.items():
            by_sweeps.setdefault(id(sweeps), (sweeps, []))[1].append(dlogits.get(point))
        adjoints = [sweeps.to_weights(_joined(parts, sweeps.logits), self._grads, images)
                    for sweeps, parts in by_sweeps.values()]
        return self._grads.pop(), adjoints


def _joined(parts: list, logits: torch.Tensor) -> torch.Tensor | None:
    """The cotangents of a sweep's groups as one, zeros where there is none; None where there is none at all."""
    if all(part is None for part in parts) or len(parts) == 1:
        return parts[0]
    zeros = torch.zeros_like(logits[:len(logits) // len(parts)])
    return torch.cat([zeros if part is None else part for part in parts])
