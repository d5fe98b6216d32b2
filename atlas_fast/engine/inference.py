"""The fastest valid logits and image gradients of a network in eval mode, for attacks and evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..attacks.network import AutogradPasses, Network, checked
from ..errors import UserError
from .capture import CudaRecorder
from .fold import folded
from .graph import build
from .low_precision import LowPrecision
from .recorded_passes import RecordedPasses
from .rules import Unmatched
from .sweeps import Sweeps


class FastNetwork(Network):
    """A Network that attacks take in the model's place: `PGD(eps)(FastNetwork(model), x, y)`.

    model: images [N, C, H, W] in [0, 1] -> logits [N, classes], in eval mode. It is copied: BatchNorm folded,
    convolutions channels-last, explicit passes without autograd; on a CUDA device recorded as CUDA graphs. So a
    FastNetwork is the model as it was when made. `engine` is "sweeps", or "autograd" (the model itself through PyTorch)
    where it is not in eval mode or cannot be traced, and `engine_reason` says why (None for the sweeps).

    bf16: gradients, and the logits that come with them, in bfloat16; then `exact` is False and attacks verify what they
    find with `logits`, which stays in the model's precision. capture False: no CUDA graphs, which repeat what the host
    decided when they were recorded. Raises UserError for bf16 with a model that is not float32.
    """

    def __init__(self, model, bf16: bool = False, capture: bool = True):
        device = _device(model)
        passes, self.engine_reason = _passes(model, torch.bfloat16 if bf16 else None)
        self.engine = "sweeps" if self.engine_reason is None else "autograd"
        if capture and device is not None and device.type == "cuda" and not _trains(model):
            passes = RecordedPasses(passes, CudaRecorder(device, shared=True))
        super().__init__(model, passes)


def _passes(model, amp: torch.dtype | None):
    """(passes, why they are not the sweeps or None)."""
    if isinstance(model, Network):
        raise UserError("FastNetwork takes a model, not a Network")
    if not isinstance(model, torch.nn.Module):
        return AutogradPasses(model, amp), f"{type(model).__name__} is not a torch.nn.Module"
    if amp is not None and any(p.dtype != torch.float32 for p in model.parameters()):
        raise UserError("bf16=True needs a float32 model")
    if _trains(model):
        return AutogradPasses(model, amp), "the model is not in eval mode"
    try:
        return SweepPasses(model, amp), None
    except Unmatched as why:
        return AutogradPasses(model, amp), f"the sweeps have no rule for {why}"


class SweepPasses:
    """Explicit passes over a folded copy of the model. amp: dtype of the convolutions and linear layers in `forward`.

    Raises Unmatched for a model that cannot be traced.
    """

    def __init__(self, model: torch.nn.Module, amp: torch.dtype | None = None):
        self.exact = amp is None
        network = folded(model)
        self._network = build(network)
        self._low = self._network if amp is None else build(network, LowPrecision(amp))

    @torch.no_grad()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return checked(Sweeps(self._network, x).logits, x)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """(logits [N, C] in x's dtype, d / d logits [N, C] -> gradient like x)."""
        sweeps = Sweeps(self._low, x)
        logits = checked(sweeps.logits, x).to(x.dtype)

        def backward(cotangent: torch.Tensor) -> torch.Tensor:
            gradient, _ = sweeps.to_images(cotangent.to(sweeps.logits.dtype))
            return gradient if gradient.stride() == x.stride() else torch.empty_like(x).copy_(gradient)

        return logits, backward


def _trains(model: torch.nn.Module) -> bool:
    return any(module.training for module in model.modules())


def _device(model) -> torch.device | None:
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, torch.nn.Module) else []
    return tensors[0].device if tensors else None
