"""last.pt, everything needed to go on, previous.pt, the one before, and best.safetensors, the weights to use.

A checkpoint is an archive of torch.save (a zip file) whose comment is the BLAKE2b sum of all bytes before the comment,
so one rename puts the file and its checksum in place together, and torch.load reads it as it is. torch checks no sums
itself: a flipped bit would be trained on. (SHA-256 takes 1.7 times as long on a processor without instructions for it.)
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import IO, cast

import torch

from ..errors import UserError
from ..models.weights import may_fill
from .files import sync_folder, write_atomically

FORMAT = "atlas_fast checkpoint 2"
WITHOUT_SUM = "atlas_fast checkpoint 1"  # of earlier versions
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.safetensors"
CHECKPOINTS = (LAST, PREVIOUS)

_MARK = b"atlas_fast blake2b "
_COMMENT = len(_MARK) + 64
_ARCHIVE = b"PK\x03\x04"  # what a zip file begins with
_END, _END_SIZE = b"PK\x05\x06", 22  # what its last bytes begin with, and how many they are without a comment


class Damaged(UserError):
    """A checkpoint that is not what was written."""


def save_last(path: Path, state: dict) -> None:
    """Write last.pt atomically and keep the one before beside it; state: tensors and plain Python values only."""
    write_atomically(path, lambda temporary: _write(temporary, {"format": FORMAT, **state}), path.with_name(PREVIOUS))


def load_last(path: Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint without running any code that it might hold (weights_only).

    Damaged: it was written by us and has changed since. UserError: there is none, it cannot be opened, or it is of
    another kind or version.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path} to resume from")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    sealed = _check(raw, path)
    try:
        state = torch.load(io.BytesIO(raw), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _foreign(path) from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the reader of a damaged archive may raise anything
        raise Damaged(f"{path} cannot be read as a checkpoint; it is corrupt") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found == FORMAT and not sealed:
        raise Damaged(f"{path} lacks its checksum; it is corrupt")
    if found not in (FORMAT, WITHOUT_SUM):
        raise UserError(f"{path} is not a checkpoint of this version of atlas_fast (format {FORMAT!r})")
    return state


def load_latest(folder: Path, device: torch.device | str = "cpu") -> tuple[dict, str]:
    """(state, ""): last.pt's; where it is damaged or missing, (state, sentence) of previous.pt. UserError as
    `load_last`; Damaged where both are."""
    last, previous = folder / LAST, folder / PREVIOUS
    try:
        if not last.exists() and previous.exists():
            raise Damaged(f"{last} is missing")
        return load_last(last, device), ""
    except Damaged as error:
        if not previous.is_file():
            raise
        first = error
    try:
        state = load_last(previous, device)
    except Damaged as error:
        raise Damaged(f"{first}, and so is {previous}, the one before: this run cannot be resumed; begin it again in "
                      f"another --out") from error
    return state, f"{first}; {previous}, the one before, is used"


def adopt_previous(folder: Path) -> None:
    """previous.pt becomes last.pt, so that the next save does not keep the damaged one in its place."""
    os.replace(folder / PREVIOUS, folder / LAST)
    sync_folder(folder)


def weights(model: torch.nn.Module) -> bytes:
    """The model's weights and buffers as .safetensors; the same bytes for the same values."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return save(tensors, metadata={"format": "pt"})


def checksum(content: bytes | memoryview) -> str:
    return _sum(content).hexdigest()


def readable(content: bytes) -> bool:
    """Whether this is a whole .safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        load(content)
    except (SafetensorError, ValueError):
        return False
    return True


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
        own = model.state_dict()
        if any(name in own and not may_fill(value, own[name]) for name, value in tensors.items()):
            raise RuntimeError("tensors of another type")
        model.load_state_dict(tensors)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(f"{path} holds the weights of another network than config.json names") from error


def _sum(content: bytes | memoryview = b""):
    return hashlib.blake2b(content, digest_size=32)


def _write(path: Path, state: dict) -> None:
    # torch.save to a path reports a full disk by a RuntimeError that says nothing of it.
    with open(path, "wb") as file:
        archive = _Summed(file)
        torch.save(state, cast(IO[bytes], archive))  # of a file it uses write and flush
        archive.seal()


class _Summed:
    """A file that torch.save writes to, which adds up what is written and ends with the sum as the zip's comment."""

    def __init__(self, file: IO[bytes]):
        self._file, self._sum, self._end = file, _sum(), b""

    def write(self, content: bytes) -> int:
        piece = memoryview(content) if len(content) >= _END_SIZE else memoryview(self._end + bytes(content))
        if len(content) >= _END_SIZE:
            self._put(self._end)
        self._put(piece[:-_END_SIZE])
        self._end = bytes(piece[-_END_SIZE:])  # the archive's end, unless more comes
        return len(content)

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> None:
        if not self._end.startswith(_END) or self._end[-2:] != b"\0\0":
            raise RuntimeError("torch.save wrote an archive that does not end as one without a comment")
        self._put(self._end[:-2] + _COMMENT.to_bytes(2, "little"))
        self._file.write(_MARK + self._sum.hexdigest().encode())

    def _put(self, content: bytes | memoryview) -> None:
        self._sum.update(content)
        self._file.write(content)


def _check(raw: bytes, path: Path) -> bool:
    """Whether a checksum is there. Damaged: the contents are others; UserError: we never wrote such a file."""
    body, comment = memoryview(raw)[:-_COMMENT], raw[-_COMMENT:]
    sealed = comment.startswith(_MARK)
    if sealed and checksum(body).encode() != comment[len(_MARK):]:
        raise Damaged(f"{path} is corrupt: its contents are not those of its checksum")
    if len(raw) < len(_ARCHIVE):
        raise Damaged(f"{path} cannot be read as a checkpoint; it is corrupt: {len(raw)} bytes")
    if not raw.startswith(_ARCHIVE):
        raise _foreign(path)
    return sealed


def _foreign(path: Path) -> UserError:
    other = f"; without it --resume takes {PREVIOUS}" if path.name == LAST and path.with_name(PREVIOUS).exists() else ""
    return UserError(f"{path} cannot be read as a checkpoint; it is of another kind, or holds pickled code, which is "
                     f"not run{other}")
