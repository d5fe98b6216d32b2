"""The first layer of a network that has parameters, found by running the network, and its output by itself."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import UserError


class _Reached(Exception):
    def __init__(self, output):
        self.output = output


class FirstLayer:
    """model: any nn.Module; x: images that it takes. `module` is the innermost module with parameters that is called
    first. Raises UserError where there is none, or where it is called more than once or returns no tensor."""

    def __init__(self, model: nn.Module, x: torch.Tensor):
        self._model = model
        called: list[tuple[nn.Module, object]] = []
        hooks = [layer.register_forward_hook(lambda module, inputs, output: called.append((module, output)))
                 for layer in _layers(model)]
        try:
            model(x)
        finally:
            for hook in hooks:
                hook.remove()
        if not called:
            raise UserError("YOPO needs a first layer with parameters, and no module with parameters was called")
        self.module, output = called[0]
        kind, count = type(self.module).__name__, sum(module is self.module for module, _ in called)
        if count > 1:
            raise UserError(f"YOPO needs a first layer that is used once, and {kind} is called {count} times")
        if not isinstance(output, torch.Tensor):
            raise UserError(f"YOPO needs a first layer that returns one tensor, and {kind} returns a "
                            f"{type(output).__name__}")

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    @contextlib.contextmanager
    def watched(self):
        """A backward pass through a forward pass made inside appends the gradient of the layer's output to the list
        that this yields."""
        gradients: list[torch.Tensor] = []

        def watch(module, inputs, output):
            output.register_hook(gradients.append)  # at once: what follows may overwrite it (an in-place ReLU)

        hook = self.module.register_forward_hook(watch)
        try:
            yield gradients
        finally:
            hook.remove()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output at x: the model's forward pass, broken off there."""
        def stop(module, inputs, output):
            raise _Reached(output)

        hook = self.module.register_forward_hook(stop)
        try:
            self._model(x)
        except _Reached as reached:
            return reached.output
        finally:
            hook.remove()
        raise UserError(f"{type(self.module).__name__}, the model's first layer, was not called again")


def _layers(model: nn.Module) -> list[nn.Module]:
    """The innermost modules with parameters; one with parametrised weights (weight norm) counts as one of them."""
    lists = [m for m in model.modules() if isinstance(m, parametrize.ParametrizationList)]
    inside = {m for inner in lists for m in inner.modules()}
    return [m for m in model.modules() if m not in inside and _has_parameters(m)
            and (parametrize.is_parametrized(m) or not any(_has_parameters(child) for child in m.children()))]


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
