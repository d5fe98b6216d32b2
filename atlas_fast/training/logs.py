"""log.jsonl: a line of JSON for each epoch."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from ..errors import UserError
from .files import write_bytes


def append(path: Path, line: dict) -> None:
    """Add a line, on the disk when this returns. UserError: the disk is full; the log is then what it was."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab", buffering=0) as file:
            content = _text([line])
            while content:
                content = content[file.write(content):]
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise UserError(f"{path} could not be written ({error.strerror or error}), and what was saved before stays; "
                        "make room, and --resume goes on") from error


def read(path: Path) -> list[dict]:
    """All whole lines; a last line that was cut off by a crash is left out, and so is what follows a damaged one."""
    lines = []
    if path.is_file():
        for text in path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # also of bytes that are no text
                break
            if not isinstance(line, dict) or "epoch" not in line:
                break
            lines.append(line)
    return lines


def write(path: Path, lines: list[dict]) -> None:
    """Make the log these lines; a file that holds them already is left alone."""
    content = _text(lines)
    if not path.exists() and not lines or path.exists() and path.read_bytes() == content:
        return
    write_bytes(path, content)


def _text(lines: list[dict]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
