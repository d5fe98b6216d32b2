"""Activation checkpoints for any module: blocks whose forward pass runs again on the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..attacks.statistics import norm_layers
from ..errors import UserError


def blocks(module: nn.Module) -> list[nn.Module]:
    """The innermost modules of several layers that are elements of an nn.Sequential or nn.ModuleList."""
    found = []
    for child in module.children():
        inner = blocks(child)
        if inner:
            found += inner
        elif isinstance(module, (nn.Sequential, nn.ModuleList)) and sum(1 for _ in child.modules()) > 2:
            found.append(child)
    return found


class Checkpoints:
    """The blocks of a model by torch.utils.checkpoint; running statistics move once. Raises UserError without blocks.

    A block's activations are saved where a first derivative alone is taken: the graph of a second one holds them.
    """

    def __init__(self, model: nn.Module):
        self._blocks = blocks(model)
        if not self._blocks:
            raise UserError(f"checkpoint_activations finds no blocks in {type(model).__name__}: modules of several "
                            "layers inside of an nn.Sequential or nn.ModuleList")
        self._random = False

    @contextlib.contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Inside, the blocks' forward passes leave checkpoints."""
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        before = None if capturing else _generator_state(device)
        for block in self._blocks:
            block.forward = _Checkpointed(block, self._random or not capturing)
        try:
            yield
        finally:
            for block in self._blocks:
                del block.forward
            # A graph cannot hold the generator's state, which only blocks with dropout and its like need.
            if before is not None and not torch.equal(before, _generator_state(device)):
                self._random = True


class _Checkpointed:
    def __init__(self, block: nn.Module, keep_random: bool):
        self._forward, self._keep_random, self._layers = block.forward, keep_random, norm_layers(block)

    def __call__(self, *args, **kwargs):
        return checkpoint(self._forward, *args, use_reentrant=False, preserve_rng_state=self._keep_random,
                          context_fn=self._contexts, **kwargs)

    def _contexts(self):
        """Of the first pass, and of the one that runs again."""
        return contextlib.nullcontext(), _again(self._layers)


@contextlib.contextmanager
def _again(layers: list) -> Iterator[None]:
    """Inside, BatchNorm saves the same tensors as before, but its running statistics stay. (`statistics_kept` takes
    them away, and torch.utils.checkpoint counts what is saved.)"""
    moving = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers
              if layer.training and layer.track_running_stats]
    for layer, _, _ in moving:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, momentum, counter in moving:
            layer.momentum, layer.num_batches_tracked = momentum, counter


def _generator_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
