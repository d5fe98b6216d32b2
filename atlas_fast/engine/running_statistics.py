"""Running statistics of BatchNorm that can be put back when a step turns out to be unusable."""

from __future__ import annotations

import torch

from ..attacks.statistics import norm_layers


class RunningStatistics:
    """The floating-point and counting buffers of a model's BatchNorm layers.

    On a CUDA device they become views of one buffer per dtype, so that keeping and restoring them takes a launch each.
    """

    def __init__(self, model: torch.nn.Module):
        self._layers = norm_layers(model)
        self._find()

    def _buffers(self) -> list[torch.Tensor]:
        return [b for layer in self._layers for b in layer._buffers.values() if b is not None]

    def _find(self) -> None:
        buffers = self._buffers()
        kinds = dict.fromkeys((b.dtype, b.device) for b in buffers)
        groups = [[b for b in buffers if (b.dtype, b.device) == kind] for kind in kinds]
        self._tensors = [t for group in groups for t in (_packed(group) if group[0].is_cuda else group)]
        self._kept = [torch.empty_like(t) for t in self._tensors]
        self._places = _places(buffers)

    def keep(self) -> None:
        """Remember them as they are."""
        if _places(self._buffers()) != self._places:  # the model was moved
            self._find()
        for kept, tensor in zip(self._kept, self._tensors, strict=True):
            kept.copy_(tensor)

    def restore(self) -> None:
        """Put back what `keep` saw."""
        for kept, tensor in zip(self._kept, self._tensors, strict=True):
            tensor.copy_(kept)

    def restore_if(self, flag: torch.Tensor) -> None:
        """The same where the 0-d flag is true, decided on the device."""
        for kept, tensor in zip(self._kept, self._tensors, strict=True):
            torch.where(flag, kept, tensor, out=tensor)


def _packed(buffers: list[torch.Tensor]) -> list[torch.Tensor]:
    """One tensor whose pieces the buffers now are."""
    flat = torch.cat([b.detach().flatten() for b in buffers])
    for buffer, piece in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.data = piece.view(buffer.shape)
    return [flat]


def _places(buffers: list[torch.Tensor]) -> list[int]:
    """Which memory each buffer shows, without a pointer, so that fake tensors have one too."""
    return [b.untyped_storage()._cdata for b in buffers]
