"""A whole training step as one CUDA graph: recorded once, replayed for every batch of the same shape."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

WARM_UP = 3
"""Steps before the recording, real ones: they tune cuDNN, compile Triton's kernels and create the optimiser's state."""


class CudaRecorder:
    """Runs and records on a stream of its own, which the autograd engine and the caches remember from the warm-up.

    shared: all recordings use the same memory, so that what one returns holds until another one runs.
    """

    def __init__(self, device: torch.device, shared: bool = False):
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle() if shared else None

    def run(self, function: Callable, *tensors: torch.Tensor):
        """function(*tensors), ordered with the current stream before and after."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = function(*tensors)
        current.wait_stream(self._stream)
        return results

    def record(self, function: Callable, *tensors: torch.Tensor) -> Callable:
        """A call that runs function on what `tensors` then hold; nothing runs now."""
        # Held: where a recording fails, PyTorch's allocator goes on asking its graph whose memory is whose.
        graph = self._graph = torch.cuda.CUDAGraph()
        # Inside of a caller's autocast, weights that were cast before lie in memory that is freed when it ends.
        torch.clear_autocast_cache()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                results = function(*tensors)
        finally:
            torch.clear_autocast_cache()  # nor may anybody use what the graph casts

        def replay():
            graph.replay()
            return results

        return replay


class Captured:
    """function(x, y) -> {name: 0-d tensor}, by a graph from the fourth batch of a shape on.

    A batch of another shape than the recorded one runs uncaptured. `settings` is all that the recording freezes: when
    it changes, the recording is dropped and the warm-up begins again. reason: why nothing is recorded, None where it
    is or will be; a recording that fails is reported by one warning.
    """

    def __init__(self, function: Callable, recorder):
        self._function, self._recorder = function, recorder
        self._forget(None)
        self.reason: str | None = None
        self.replayed = False

    def _forget(self, settings) -> None:
        self._settings, self._seen = settings, dict[tuple, int]()
        self._replay: Callable[[], dict[str, torch.Tensor]] | None = None
        self._inputs: tuple[torch.Tensor, ...] = ()

    def __call__(self, x: torch.Tensor, y: torch.Tensor, settings: tuple) -> dict[str, torch.Tensor]:
        self.replayed = False
        if self.reason is not None:
            return self._recorder.run(self._function, x, y)
        if settings != self._settings:
            self._forget(settings)
        shape = _shape(x, y)
        if self._replay is None:
            self._seen[shape] = self._seen.get(shape, 0) + 1
            if self._seen[shape] <= WARM_UP or not self._record(x, y):
                return self._recorder.run(self._function, x, y)
        if shape != _shape(*self._inputs):
            return self._recorder.run(self._function, x, y)
        for static, given in zip(self._inputs, (x, y), strict=True):
            static.copy_(given, non_blocking=True)
        self.replayed = True
        assert self._replay is not None  # made by _record
        return self._replay()

    def _record(self, x, y) -> bool:
        inputs = x.clone(), y.clone()
        try:
            self._replay = self._recorder.record(self._function, *inputs)
        except RuntimeError as error:
            self.reason = f"the step cannot be captured: {(str(error).splitlines() or [type(error).__name__])[0]}"
            warnings.warn(f"atlas_fast runs without a CUDA graph, since {self.reason}", RuntimeWarning, stacklevel=4)
            return False
        self._inputs = inputs
        return True


def _shape(x: torch.Tensor, y: torch.Tensor) -> tuple:
    return x.shape, x.stride(), x.dtype, y.shape
