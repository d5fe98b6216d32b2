"""Crafting must leave the running statistics of BatchNorm as they were.

The reference code of Wong et al. (2020) lets the crafting passes update them, so that evaluation sees statistics of
half-made adversaries as well; here only the training passes at x' and x count.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _NormBase

from ..errors import UserError

BN_MODES = ("train", "eval")


def norm_layers(model) -> list[_NormBase]:
    """The layers of a model that keep running statistics (BatchNorm, SyncBatchNorm, InstanceNorm)."""
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    return [m for m in modules if isinstance(m, _NormBase) and m.track_running_stats]


def check_bn_mode(mode: str) -> str:
    if mode not in BN_MODES:
        raise UserError(f"bn_mode must be one of {', '.join(BN_MODES)}, got {mode!r}")
    return mode


@contextmanager
def statistics_kept(layers: list[_NormBase], mode: str = "train") -> Iterator[None]:
    """Inside, forward passes change no running statistics of `layers` nor their batch counters.

    mode "train": layers in training mode normalise with the batch's statistics; "eval": with the running ones.
    Layers already in eval mode stay so. Flags are restored on exit, on an exception too.
    """
    training = [layer for layer in layers if layer.training and layer.track_running_stats]
    flag, inside = ("track_running_stats", False) if mode == "train" else ("training", False)
    for layer in training:
        setattr(layer, flag, inside)
    try:
        yield
    finally:
        for layer in training:
            setattr(layer, flag, True)
