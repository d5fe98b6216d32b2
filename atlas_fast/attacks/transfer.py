"""Black-box transfer: adversaries that a white-box attack finds on a surrogate are tried on another model (the paper's
black-box column: PGD with 1000 steps on a surrogate). They do not depend on the model under attack, so they are kept in
files and serve every model that is evaluated on the same images."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .network import Network

_FORMAT = "atlas_fast adversaries 1"


class Transfer:
    """Adversaries of `attack` on `surrogate`.

    surrogate: a module, images [N, C, H, W] in [0, 1] -> logits, on the images' device, used in eval mode and left in
    the mode it was in; attack: any attack object, PGD with 1000 steps in the paper; cache: a folder for files of
    adversaries, made when it is missing, or None to keep none. A file is named by a hash of the surrogate's structure,
    weights and buffers, the attack's kind and settings, the images and labels, the seed and the index of the first
    sample: a change of any of these makes a new one. Calls with rng=None are random and neither read nor write files.
    network: what to hand the attack in the surrogate's place, e.g. `FastNetwork`, made of it in eval mode.
    """

    def __init__(self, surrogate: torch.nn.Module, attack: Any, cache: str | Path | None = None,
                 network: Callable[[torch.nn.Module], object] | None = None):
        if not isinstance(surrogate, torch.nn.Module):
            raise UserError(f"surrogate must be a torch.nn.Module, got {type(surrogate).__name__}")
        self.surrogate, self.attack, self._network = surrogate, attack, network or (lambda model: model)
        self.cache = None if cache is None else Path(cache)

    @property
    def settings(self) -> dict:
        """What a report should say about this attack."""
        return {"attack": type(self.attack).__name__, **self.attack.settings,
                "surrogate": _hash_of_model(self.surrogate)[:16]}

    def __call__(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
                 rng: torch.Tensor | None = None, sample_offset: int = 0) -> torch.Tensor:
        """x_adv like x, from the cache where it holds them; `model` is not looked at. For the other arguments and the
        errors see the attack. A file that cannot be read or is damaged is made anew, with a UserWarning."""
        if self.cache is None or rng is None:
            return self._make(x, y, rng, sample_offset)
        key = self._key(x, y, rng, sample_offset)
        path = self.cache / f"transfer-{key[:32]}.safetensors"
        x_adv = _read(path, key, x) if path.exists() else None
        if x_adv is None:
            x_adv = self._make(x, y, rng, sample_offset)
            _write(path, key, x_adv)
        return x_adv

    def _make(self, x, y, rng, sample_offset):
        with _eval_mode(self.surrogate):
            return self.attack(self._network(self.surrogate), x, y, rng=rng, sample_offset=sample_offset)

    def _key(self, x, y, rng, sample_offset) -> str:
        total = hashlib.blake2b(digest_size=32)
        kind = f"{type(self.attack).__module__}.{type(self.attack).__qualname__}"
        described = [_FORMAT, kind, self.attack.settings, rng.tolist(), sample_offset]
        total.update(json.dumps(described, sort_keys=True, default=repr).encode())
        total.update(_hash_of_model(self.surrogate).encode())
        for tensor in (x, y):
            total.update(_hash(tensor).encode())
        return total.hexdigest()


def _hash_of_model(model: torch.nn.Module) -> str:
    total = hashlib.blake2b(f"{type(model).__qualname__} {model!r}".encode(), digest_size=32)
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {_hash(tensor)}".encode())
    return total.hexdigest()


def _hash(tensor: torch.Tensor) -> str:
    """Of dtype, shape and contents."""
    total = hashlib.blake2b(f"{tensor.dtype} {list(tensor.shape)}".encode(), digest_size=32)
    total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _read(path: Path, key: str, x: torch.Tensor) -> torch.Tensor | None:
    """The adversaries for x, or None, with a warning, where the file is not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about, x_adv = file.metadata() or {}, file.get_tensor("x_adv")
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
    else:
        if (about.get("key"), about.get("contents")) == (key, _hash(x_adv)) and x_adv.shape == x.shape:
            return x_adv.to(x.device)
        reason = "its contents are not those that were written"
    warnings.warn(f"the cached adversaries {path} are damaged ({reason}); they are made anew", stacklevel=3)
    return None


def _write(path: Path, key: str, x_adv: torch.Tensor) -> None:
    """Atomically: a reader finds the whole file or none."""
    from safetensors.torch import save_file

    x_adv = x_adv.detach().cpu().contiguous()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # several processes may make the same adversaries
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x_adv": x_adv}, temporary, metadata={"format": _FORMAT, "key": key, "contents": _hash(x_adv)})
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"the adversaries could not be cached in {path} ({error.strerror or error}); make room or "
                        "choose another folder") from error


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode is restored on exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
