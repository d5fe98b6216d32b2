"""Finished batches of an evaluation that is not over, so that an interrupted one goes on where it was.

FOLDER/ATTACK/settings.json says what the batches beside it were made with; FOLDER/ATTACK/START-STOP.npz is one batch.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch

from ..data import ImageFiles
from ..errors import UserError
from ..training.files import make_folder, write_json
from .samples import load_npz, save_npz


class Parts:
    """`common`: whatever, beside an attack's own settings, its results depend on (JSON values)."""

    def __init__(self, folder: Path, common: dict):
        self.folder, self._common = folder, common

    def check(self, name: str, settings: dict) -> None:
        """UserError where batches of this attack lie here that were made with other settings. Writes nothing."""
        path = self._of(name) / "settings.json"
        if not path.exists():
            return
        try:
            there = json.loads(path.read_text())
            different = sorted(key for key in there.keys() | self._key(settings).keys()
                               if there.get(key) != self._key(settings).get(key))
        except (ValueError, AttributeError, OSError, RecursionError) as error:
            raise UserError(f"{path} is corrupt, so the batches beside it cannot be used; "
                            "--fresh discards them") from error
        if different:
            key, here = different[0], self._key(settings)
            raise UserError(f"{self.folder} holds an unfinished {name} with {key} = {there.get(key)}, now it is "
                            f"{here.get(key)}; give the same settings to go on, or --fresh to begin again")

    def begin(self, name: str, settings: dict) -> None:
        """Make the attack's folder."""
        self.check(name, settings)
        if not (self._of(name) / "settings.json").exists():
            make_folder(self._of(name))
            write_json(self._of(name) / "settings.json", self._key(settings))

    def load(self, name: str, start: int, stop: int) -> dict[str, np.ndarray] | None:
        """A finished batch, or None. UserError where its file is corrupt."""
        path = self._of(name) / f"{start}-{stop}.npz"
        if not path.exists():
            return None
        batch = load_npz(path, "a batch of an evaluation: it is corrupt; delete it to have the batch computed again")
        if len(batch.get("broken", ())) != stop - start:
            raise UserError(f"{path} does not hold {stop - start} images; delete it to have the batch computed again")
        return batch

    def save(self, name: str, start: int, stop: int, batch: dict[str, np.ndarray]) -> None:
        save_npz(self._of(name) / f"{start}-{stop}.npz", batch)

    def remove(self, names) -> None:
        """Delete the batches of these attacks; those of others stay."""
        for name in names:
            shutil.rmtree(self._of(name), ignore_errors=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _of(self, name: str) -> Path:
        return self.folder / file_name(name)

    def _key(self, settings: dict) -> dict:
        return json.loads(json.dumps({**self._common, **settings}))


def file_name(attack: str) -> str:
    """The attack's name as that of a file; a hash keeps two names apart that differ in odd characters only."""
    plain = re.sub(r"[^\w.@-]", "_", attack)
    return plain if plain == attack else f"{plain}-{hashlib.sha256(attack.encode()).hexdigest()[:8]}"


def fingerprint(*tensors: torch.Tensor | ImageFiles) -> str:
    """A short hash of shapes, types and contents; of images in files, of their names and lengths."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if isinstance(tensor, ImageFiles):
            digest.update(tensor.fingerprint().encode())
            continue
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def model_fingerprint(model: torch.nn.Module) -> str:
    """A short hash of the weights and buffers."""
    return fingerprint(*model.state_dict().values())
