"""The passes of a network as CUDA graphs, two for each shape of batch: to the logits, and back to the images."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from .capture import WARM_UP

KEPT = 32
"""Recordings that are kept, the latest used first: attacks shrink their batches in sixteenths (attacks/search.py)."""


class RecordedPasses:
    """passes: `exact`, `logits(x)`, `forward(x) -> (logits, backward)`; this is the same, from the fourth call of a
    shape on by graphs. recorder: see capture.CudaRecorder.

    The backward pass must run before the next pass, as attacks do. What a call returns is the caller's own. The
    weights must stay where they are. A recording that fails is reported by one warning, and nothing is recorded any
    more; `reason` says why, None where graphs are or will be used.
    """

    def __init__(self, passes, recorder):
        self._passes, self._recorder, self.exact = passes, recorder, passes.exact
        self.reason: str | None = None
        self._seen: dict[tuple, int] = {}
        self._recorded: OrderedDict[tuple, Recording] = OrderedDict()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        recording = self._recording("logits", x)
        if recording is None:
            return self._recorder.run(self._passes.logits, x)
        return recording.logits(x)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        recording = self._recording("forward", x)
        if recording is not None:
            return recording.logits(x), recording.backward
        logits, backward = self._recorder.run(self._passes.forward, x)
        return logits, lambda cotangent: self._recorder.run(backward, cotangent)

    def _recording(self, kind: str, x: torch.Tensor) -> Recording | None:
        if self.reason is not None or len(x) == 0:
            return None
        device = x.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (kind, x.shape, x.stride(), x.dtype, autocast)
        if key in self._recorded:
            self._recorded.move_to_end(key)
            return self._recorded[key]
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._record(key, x) if self._seen[key] > WARM_UP else None

    def _record(self, key: tuple, x: torch.Tensor) -> Recording | None:
        try:
            recording = Recording(self._passes, self._recorder, x, with_backward=key[0] == "forward")
        except RuntimeError as error:
            self.reason = f"the passes cannot be captured: {(str(error).splitlines() or [type(error).__name__])[0]}"
            warnings.warn(f"atlas_fast runs without CUDA graphs, since {self.reason}", RuntimeWarning, stacklevel=6)
            return None
        self._recorded[key] = recording
        if len(self._recorded) > KEPT:
            self._recorded.popitem(last=False)
        return recording


class Recording:
    """Both passes for images like x. All recordings of a recorder share memory, so that results are copied out."""

    def __init__(self, passes, recorder, x: torch.Tensor, with_backward: bool):
        self._x = torch.empty_like(x).copy_(x)
        if not with_backward:
            self._forward = recorder.record(passes.logits, self._x)
            return
        backward: Any = None

        def forward(images):
            nonlocal backward
            logits, backward = passes.forward(images)
            return logits

        self._forward = recorder.record(forward, self._x)
        self._cotangent = torch.zeros_like(self._forward())
        self._backward = recorder.record(lambda cotangent: backward(cotangent), self._cotangent)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        self._x.copy_(x, non_blocking=True)
        return self._forward().clone()

    def backward(self, cotangent: torch.Tensor) -> torch.Tensor:
        self._cotangent.copy_(cotangent, non_blocking=True)
        return self._backward().clone(memory_format=torch.preserve_format)
