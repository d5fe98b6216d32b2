"""Work that nobody waits for until a pass ends: weight gradients, beside the way from the logits to the images."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Beside:
    """A second stream. Inside a graph's recording it becomes a branch of the graph."""

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)
        self._held: list[tuple] = []

    def run(self, function: Callable, *tensors: torch.Tensor) -> None:
        """function(*tensors), after all that was asked for so far; what it reads must not be written to before `join`.

        The tensors are held until then: their memory belongs to the first stream, which would use it again.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            function(*tensors)
        self._held.append(tensors)

    def join(self) -> None:
        """What follows comes after everything that was run beside."""
        if self._held:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
            self._held.clear()
