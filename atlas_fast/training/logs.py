"""log.jsonl: a line of JSON for each epoch."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import UserError
from .files import write_atomically


def append(path: Path, line: dict) -> None:
    try:
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror or error}); make room") from error


def read(path: Path) -> list[dict]:
    """All whole lines; a last line that was cut off by a crash is left out."""
    lines = []
    if path.is_file():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


def truncate(path: Path, epochs: int) -> list[dict]:
    """Keep the lines of the first `epochs` epochs: those that the checkpoint knows. Returns them."""
    lines = [line for line in read(path) if line["epoch"] <= epochs]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(path, lambda temporary: temporary.write_text(text))
    return lines
