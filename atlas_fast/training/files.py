"""Files that are either the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import UserError


def write_atomically(path: Path, write) -> None:
    """`write(temporary_path)`, then fsync and rename over `path`. UserError: the disk is full or not writable."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written ({error.strerror or error}); make room or choose another --out") \
            from error


def write_json(path: Path, value: dict) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + "\n"))


def make_folder(path: Path) -> None:
    """Create the folder and prove that it can be written. UserError, and nothing left behind, where it cannot."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    probe = path / ".write-test"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise UserError(f"the output folder {path} cannot be written ({error.strerror or error}); "
                        "choose another with --out") from error
