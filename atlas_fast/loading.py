"""A trained network from a run's folder, or from a file of weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from . import models
from .errors import UserError
from .training import checkpoint
from .training.config import read_config


def load(path: str | Path, device: torch.device | str = "cpu", *, model: str | nn.Module | None = None,
         num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """The network of a run, or one with the weights of a file, in eval mode: images [N,C,H,W] in [0,1] -> logits
    [N,classes].

    path: a folder that `python -m atlas_fast.train` wrote. Its best.safetensors are loaded; where the run has none yet
    (its first counted epoch is not over), the weights of last.pt. A model module:function of the run is imported.
    Or a file .pt, .pth or .safetensors with a state dict, of torchvision's or RobustBench's kind (a normalisation in
    it becomes the first layer); then model: a module, which is filled, or a name of `models.create`, built with
    num_classes, in_channels and image_size. UserError: no such run or file, or unreadable, or another network's.
    """
    path = Path(path)
    if model is not None or path.is_file():
        return _from_file(path, model, num_classes, in_channels, image_size).to(device).eval()
    config, whole = read_config(path)
    network = models.create(config.model, whole["num_classes"], whole["in_channels"], whole["image_pixels"])
    best = path / checkpoint.BEST
    if best.is_file():
        checkpoint.load_weights(best, network)
    else:
        state, _ = checkpoint.load_latest(path)
        checkpoint.fill(network, state["step"].get("average", state)["model"], path / checkpoint.LAST)
    return network.to(device).eval()


def _from_file(path: Path, model: str | nn.Module | None, num_classes: int, in_channels: int,
               image_size: int) -> nn.Module:
    from .state_dicts import load_into

    if path.is_dir():
        raise UserError(f"{path} is a folder: leave model away for a run, or name the file of the weights")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if model is None:
        raise UserError(f"{path} is a file of weights: say of which network, e.g. model='wrn-28-10', num_classes=10")
    if isinstance(model, str):
        model = models.create(model, num_classes, in_channels, image_size)
    return load_into(model, path)
