"""What a sweep runs through: the product of a grid's values, or a list from a file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from . import options


def product(words: Sequence[str]) -> list[dict]:
    """Every combination of NAME=VALUE,VALUE,... words, the last one changing fastest. UserError: a wrong word."""
    axes: dict[str, list] = {}
    for word in words:
        name, sign, values = word.partition("=")
        if not sign or not values:
            raise UserError(f"--grid takes NAME=VALUE,VALUE..., for example alpha=1e-4,1e-3, not {word!r}")
        dest = options.name(name)
        if dest in axes:
            raise UserError(f"--grid names {name} twice; put all its values into one")
        axes[dest] = [options.value(dest, value) for value in values.split(",")]
        if len(set(axes[dest])) < len(axes[dest]):
            raise UserError(f"--grid {word} holds a value twice")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def read_list(path: Path) -> list[dict]:
    """The runs of a JSON or TOML file: {"common": {options}, "runs": [{options}, ...]}, or in JSON the list alone.

    A run's "name" is the label of its row; it is kept under "name". UserError: no such file, or not such a list."""
    content = _content(path)
    if isinstance(content, list):
        content = {"runs": content}
    if not isinstance(content, dict) or set(content) - {"common", "runs"} or not isinstance(content.get("runs"), list):
        raise UserError(f"{path} must hold the list of runs as runs, and the options they share as common")
    rows = [content.get("common", {}), *content["runs"]]
    if not content["runs"] or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: every run must be a table of training options, and there must be one")
    common = _row(content.get("common", {}))
    return [{**common, **_row(row)} for row in content["runs"]]


def _row(row: dict) -> dict:
    named = {}
    for name, given in row.items():
        dest = name if name == "name" else options.name(name)
        named[dest] = str(given) if name == "name" else options.value(dest, given)
    return named


def _content(path: Path):
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise UserError(f"--list {path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if path.suffix != ".toml":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON ({error}); a TOML file ends in .toml") from error
    try:
        import tomllib
    except ImportError as error:  # Python 3.10
        raise UserError(f"reading {path} needs Python 3.11; write the list as JSON") from error
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML ({error})") from error
