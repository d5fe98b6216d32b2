"""Where the sweeps put weight gradients, and the one buffer that can hold all of them."""

from __future__ import annotations

import torch

_ALIGNMENT = 16  # elements: 64 bytes of float32, so that every gradient can be read in wide loads


class Gradients:
    """Weight gradients by parameter. collect False: takes none; records: the sweep must return what a tangent needs;
    flat: memory for the values, which starts at zero; None: new memory; beside: where convolutions may compute theirs,
    None: in line."""

    def __init__(self, collect: bool = True, records: bool = False, flat: FlatGradients | None = None, beside=None):
        self._collect, self.records, self.beside = collect, records, beside
        self._slots = {} if flat is None else flat.slots
        self._values: dict[torch.nn.Parameter, torch.Tensor] = {}

    def takes(self, parameter) -> bool:
        return self._collect and parameter is not None and parameter.requires_grad

    def add(self, parameter, value) -> None:
        """`value` must be new memory; it may be kept and added to."""
        if value is None or not self.takes(parameter):
            return
        held = self.slot(parameter) if parameter in self._values or parameter in self._slots else None
        if held is not None:
            held.add_(value)
        else:
            self._values[parameter] = value.to(parameter.dtype)

    def slot(self, parameter) -> torch.Tensor | None:
        """The memory of its gradient so far, for a kernel that adds to it; None where none is taken."""
        if not self.takes(parameter):
            return None
        if parameter not in self._values:
            slot = self._slots.get(parameter)
            self._values[parameter] = torch.zeros_like(parameter) if slot is None else slot
        return self._values[parameter]

    def pop(self) -> dict[torch.nn.Parameter, torch.Tensor]:
        if self.beside is not None:
            self.beside.join()
        values, self._values = self._values, {}
        return values


NONE, RECORD = Gradients(collect=False), Gradients(collect=False, records=True)


class FlatGradients:
    """Memory for the gradients of `parameters`, one buffer for each dtype and device (most often one in all); `slots`
    are views with the parameters' shapes and strides."""

    def __init__(self, parameters: list[torch.nn.Parameter]):
        self.buffers: list[torch.Tensor] = []
        self.slots: dict[torch.nn.Parameter, torch.Tensor] = {}
        for kind in dict.fromkeys((p.dtype, p.device) for p in parameters):
            self._add_buffer([p for p in parameters if (p.dtype, p.device) == kind])

    def _add_buffer(self, parameters):
        sizes = [-(-p.numel() // _ALIGNMENT) * _ALIGNMENT for p in parameters]
        self.buffers.append(torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device))
        for p, piece in zip(parameters, self.buffers[-1].split(sizes), strict=True):
            self.slots[p] = _shaped(piece[:p.numel()], p)

    def zero(self) -> None:
        for buffer in self.buffers:
            buffer.zero_()

    def attach(self) -> None:
        """Let every parameter's .grad be its slot."""
        for parameter, slot in self.slots.items():
            parameter.grad = slot

    def not_finite(self) -> torch.Tensor:
        """0-d bool: whether some gradient is NaN or infinite; reads every gradient once."""
        largest = [torch.linalg.vector_norm(buffer, ord=torch.inf) for buffer in self.buffers]
        flags = [(value - value) != 0 for value in largest]  # inf - inf and NaN - NaN are NaN
        return flags[0] if len(flags) == 1 else torch.stack([f.to(flags[0].device) for f in flags]).any()


def _shaped(piece: torch.Tensor, parameter) -> torch.Tensor:
    """A view of consecutive memory with the parameter's strides, or contiguous where those leave gaps."""
    dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    return piece.as_strided(parameter.shape, parameter.stride(), piece.storage_offset()) if dense else \
        piece.view(parameter.shape)
