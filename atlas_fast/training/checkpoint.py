"""last.pt, everything needed to go on, and best.safetensors, the weights to use."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from ..errors import UserError
from .files import write_atomically

FORMAT = "atlas_fast checkpoint 1"


def save_last(path: Path, state: dict) -> None:
    """Write last.pt atomically; state: tensors and plain Python values only."""
    write_atomically(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary))


def load_last(path: Path, device: torch.device | str = "cpu") -> dict:
    """Read last.pt without running any code that it might hold (weights_only). UserError: corrupt or foreign."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path} to resume from")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint; it is corrupt or of another kind") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version of atlas_fast (format {FORMAT!r})")
    return state


def save_weights(path: Path, model: torch.nn.Module) -> None:
    """Write the model's weights and buffers as .safetensors, atomically."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Read .safetensors into the model. UserError: corrupt, or of another network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as .safetensors weights; it is corrupt or of another kind") from error
    fill(model, tensors, path)


def fill(model: torch.nn.Module, tensors: dict, path: Path) -> None:
    """Put weights into the model. UserError: they are those of another network."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path} holds the weights of another network than config.json names") from error
