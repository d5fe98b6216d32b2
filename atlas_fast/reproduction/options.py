"""Training options by name: what `python -m atlas_fast.train` takes, as values, as a command and as a folder's name."""

from __future__ import annotations

import argparse
import hashlib
from functools import cache
from pathlib import Path

from .. import train
from ..errors import UserError

_NOT_A_SETTING = ("help", "out", "resume", "baseline", "config", "save_minutes")
PLACE = ("data_dir", "device", "log")  # where a run happens and what it writes; its result does not depend on it
_LONGEST = 150  # characters of a folder's name; file systems end at 255


@cache
def _actions() -> dict[str, argparse.Action]:
    """Every setting of `train` by the name of its value ("alpha", "eps", "batch_size")."""
    return {action.dest: action for action in train.parser()._actions if action.dest not in _NOT_A_SETTING}


def name(text: str) -> str:
    """The value's name of an option written as alpha, batch-size, batch_size, --alpha or epsilon. UserError."""
    wanted = text.strip().lstrip("-").replace("_", "-")
    for dest, action in _actions().items():
        if wanted in (dest.replace("_", "-"), *(option.lstrip("-") for option in action.option_strings)):
            return dest
    known = ", ".join(action.option_strings[0].lstrip("-") for action in _actions().values())
    raise UserError(f"training has no option {text!r}; its options: {known}")


def flag(dest: str) -> str:
    """"--epsilon" of "eps"."""
    return _actions()[dest].option_strings[0]


def value(dest: str, given: object):
    """`given` (text, or a value from a file) as the option's type. UserError where it is none."""
    action = _actions()[dest]
    if action.nargs == 0:  # a switch
        if str(given).lower() not in ("true", "false"):
            raise UserError(f"{flag(dest)} is a switch: true or false, not {given!r}")
        return str(given).lower() == "true" or None
    if isinstance(given, bool | list | dict) or given is None:
        raise UserError(f"{flag(dest)} takes one value, not {given!r}")
    try:
        return (action.type if callable(action.type) else str)(str(given))
    except ValueError:
        raise UserError(f"{flag(dest)} takes a number, not {given!r}") from None


def parse(arguments: list[str]) -> dict:
    """Options as they are given to `train`, those that are given only. UserError: unknown or misplaced ones."""
    given = {dest: got for dest, got in vars(train.parser().parse_args(arguments)).items() if got not in (None, False)}
    if wrong := next((dest for dest in given if dest not in _actions()), None):
        raise UserError(f"--{wrong} is for a single training; leave it away here")
    return given


def command(options: dict) -> list[str]:
    """The options as arguments of `train`."""
    words = []
    for dest, chosen in options.items():
        words += [flag(dest)] if chosen is True else [flag(dest), text(chosen)]
    return words


def text(chosen: object) -> str:
    """A value as a reader writes it: 5 for 5.0, 0.0002; it reads back as the same number."""
    if isinstance(chosen, float) and abs(chosen) < 1e6 and chosen == int(chosen):
        return str(int(chosen))
    return str(chosen)


def folder_name(options: dict) -> str:
    """The options in words: runs with the same settings share a folder, others never do. data_dir counts for npz and
    imagefolder, where it says which images."""
    shown = dict(options)
    parts = [text(shown.pop(key)) for key in ("dataset", "method") if key in shown]
    data_dir, seed = shown.pop("data_dir", None), shown.pop("seed", None)
    shown.pop("device", None)
    shown.pop("log", None)
    if data_dir is not None and options.get("dataset") in ("npz", "imagefolder"):
        parts.insert(1, Path(data_dir).stem)
    keys = sorted(shown, key=lambda key: (key != "steps", key))
    parts += [f"{flag(key).lstrip('-')}={text(shown[key])}" for key in keys]
    if seed is not None:
        parts.append(f"seed={seed}")
    whole = "-".join(parts).replace("/", "_")
    if len(whole) <= _LONGEST:
        return whole
    return f"{whole[:_LONGEST]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
