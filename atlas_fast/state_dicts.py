"""Weights that others wrote: state dicts of torchvision's or RobustBench's kind, as .pt, .pth or .safetensors."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from .errors import UserError
from .models import Normalize, weights
from .models.wide_resnet import WideResNet

WRAPPERS = ("state_dict", "model_state_dict")
PREFIXES = ("module.", "model.")  # of DataParallel, and of a network within another
NORMALISATIONS = (("mu", "sigma"), ("normalize.mean", "normalize.std"))
_NAMED = 3  # names in a message


def load_into(model: nn.Module, path: Path) -> nn.Module:
    """The model with the file's weights. Where the file holds a normalisation of the images (RobustBench's mu and
    sigma, or normalize.mean and normalize.std) that the model has not, it becomes the first layer, so that images stay
    in [0,1]. Wide ResNets may have the names of TRADES and RobustBench (block1.layer.0.conv1, ...).

    UserError: the file is corrupt, is no state dict, holds pickled code, or has other weights than the model."""
    tensors = read(path)
    wanted = model.state_dict()
    tensors, statistics = _without_normalisation(_without_prefixes(tensors, wanted), wanted, path)
    if isinstance(model, WideResNet) and "block1.layer.0.conv1.weight" in tensors:
        tensors = _trades_names(tensors, len(model.groups) // 3)
    _check(tensors, wanted, path)
    model.load_state_dict(tensors)
    if statistics is None:
        return model
    return nn.Sequential(OrderedDict(normalize=Normalize(*statistics), model=model))


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in the file by name, out of {"state_dict": ...} and its like. No code in it is run. UserError."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as .safetensors weights; it is corrupt or of another kind") \
                from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds more than tensors (pickled objects may run code) or is no file of torch.save; "
                        "save the model's state_dict() instead") from error
    except Exception as error:  # the reader of a damaged archive may raise anything
        raise UserError(f"{path} cannot be read as weights; it is corrupt or of another kind "
                        f"({type(error).__name__})") from error
    while isinstance(state, dict) and (key := next((k for k in WRAPPERS if isinstance(state.get(k), dict)), None)):
        state = state[key]
    if not isinstance(state, dict) or not state or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()):
        raise UserError(f"{path} holds no state dict: a dict of tensors by name, or one under "
                        f"{' or '.join(map(repr, WRAPPERS))}")
    return dict(state)


def _without_prefixes(tensors: dict, wanted: dict) -> dict:
    """Names without the prefixes that the model's own do not begin with. RobustBench's normalised networks have the
    prefix on all but the normalisation."""
    outside = {name for pair in NORMALISATIONS for name in pair}
    while True:
        names = [name for name in tensors if name not in outside]
        prefix = next((p for p in PREFIXES if names and all(n.startswith(p) for n in names)), None)
        if prefix is None or any(name.startswith(prefix) for name in wanted):
            return tensors
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}


def _without_normalisation(tensors: dict, wanted: dict, path: Path) -> tuple[dict, tuple | None]:
    """(the rest, (mean, std) or None). UserError: one that is not a positive divisor for each channel."""
    for mean, std in NORMALISATIONS:
        if mean in tensors and std in tensors and mean not in wanted:
            values = [tensors[name].flatten().float() if weights.readable(tensors[name]) else torch.empty(0)
                      for name in (mean, std)]
            mu, sigma = values
            if not len(mu) or mu.shape != sigma.shape or not (torch.cat(values).isfinite().all() and (sigma > 0).all()):
                raise UserError(f"{path}: {mean} and {std} are no means and standard deviations of channels")
            return {name: value for name, value in tensors.items() if name not in (mean, std)}, \
                tuple(value.tolist() for value in values)
    return tensors, None


def _trades_names(tensors: dict, blocks: int) -> dict:
    """A wide ResNet of TRADES' code (Zhang et al. 2019b), which RobustBench uses: the same network, other names. Its
    sub_block1 is never run."""
    def renamed(name: str) -> str:
        if match := re.fullmatch(r"block([123])\.layer\.(\d+)\.(.+)", name):
            group, block, rest = int(match[1]), int(match[2]), match[3]
            return f"groups.{(group - 1) * blocks + block}.{rest.replace('convShortcut', 'shortcut')}"
        return re.sub(r"^bn1\.", "bn.", re.sub(r"^conv1\.", "conv.", name))

    kept = {name: value for name, value in tensors.items() if not name.startswith("sub_block1.")}
    if any(int(m[1]) >= blocks for m in (re.match(r"block[123]\.layer\.(\d+)\.", name) for name in kept) if m):
        return kept  # a deeper one: the names that the model lacks say so
    return {renamed(name): value for name, value in kept.items()}


def _check(tensors: dict, wanted: dict, path: Path) -> None:
    """UserError naming what is missing, unknown or of another shape."""
    missing = [name for name in wanted if name not in tensors]
    unknown = [name for name in tensors if name not in wanted]
    shapes = [f"{name} {list(tensors[name].shape)} instead of {list(wanted[name].shape)}" for name in wanted
              if name in tensors and tensors[name].shape != wanted[name].shape]
    kinds = [f"{name} {tensors[name].dtype}" for name in wanted
             if name in tensors and not weights.may_fill(tensors[name], wanted[name])]
    parts = [f"{len(names)} {what} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
             for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes),
                                ("of another type", kinds)) if names]
    if parts:
        raise UserError(f"{path} holds the weights of another network than this model: {'; '.join(parts)}")
