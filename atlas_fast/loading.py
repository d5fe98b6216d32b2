"""A trained network from a run's folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from . import models
from .training import checkpoint
from .training.config import read_config


def load(run_dir: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a run in eval mode: images [N,C,H,W] in [0,1] -> logits [N,classes].

    run_dir: a folder that `python -m atlas_fast.train` wrote. Its best.safetensors are loaded; where the run has none
    yet (its first counted epoch is not over), the weights of last.pt. UserError: no run, or unreadable files.
    """
    run_dir = Path(run_dir)
    config, whole = read_config(run_dir)
    model = models.create(config.model, whole["num_classes"], whole["in_channels"], whole["image_pixels"])
    best, last = run_dir / "best.safetensors", run_dir / "last.pt"
    if best.is_file():
        checkpoint.load_weights(best, model)
    else:
        state = checkpoint.load_last(last)
        checkpoint.fill(model, state["step"].get("average", state)["model"], last)
    return model.to(device).eval()
