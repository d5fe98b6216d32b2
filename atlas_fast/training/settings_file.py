"""--config: the config.json of a run, given back as settings."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from ..errors import UserError
from .config import HAS, Config
from .defaults import OWN

# What `setup.describe` writes beside the settings.
DESCRIPTIVE = ("num_classes", "in_channels", "image_pixels", "n_train", "n_validation", "n_test", "classes",
               "batches_per_epoch", "weights", "engine_used", "engine_reason", "capture_reason", "processes",
               "images_held", "device_name", "versions")
# What another --method has its own defaults for.
OF_THE_METHOD = ("method", "objective", "steps", "step_size", "alpha", "beta", "noise", "num_projections",
                 "ramp_epochs", "replays", "passes", "tau", "omega")
VALIDATION = ("val_steps", "val_step_size")  # no options; they follow the data set where no file gives them


def merge(path: Path, parser: argparse.ArgumentParser, given: dict) -> tuple[dict, dict]:
    """(options, the file's settings of the validation): those given, and those of the file for the rest.

    With another method (or objective) than the file's, what belongs to the method is left out. UserError: the file
    cannot be read, holds a setting that this version does not know, or a value that is none of its kind.
    """
    settings = _read(path)
    chosen = {name: value for name, value in given.items() if value is not None}
    if any(name in chosen and chosen[name] != settings.get(name) for name in ("method", "objective")):
        settings = {name: value for name, value in settings.items() if name not in OF_THE_METHOD}
    validation = {name: _number(path, name, settings.pop(name)) for name in VALIDATION if name in settings}
    if "val_step_size" in validation and "eps" in chosen and "eps" in settings:
        validation["val_step_size"] *= chosen["eps"] / _number(path, "eps", settings["eps"])
    method = settings.get("method")
    if method in ("plain", "jac"):  # written for every method, of use to some
        settings.pop("step_size", None)
    if method is not None and method not in HAS["num_projections"]:
        settings.pop("num_projections", None)
    return {**given, **_parsed(path, parser, settings), **chosen}, validation


def _read(path: Path) -> dict:
    """The file's settings without those that are null. UserError as in `merge`."""
    try:
        whole = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--config {path} cannot be read as the config.json of a run ({error})") from error
    if not isinstance(whole, dict):
        raise UserError(f"--config {path} holds no settings: it must be an object like a run's config.json")
    names = {field.name for field in fields(Config)}
    if unknown := [name for name in whole if name not in names and name not in DESCRIPTIVE]:
        raise UserError(f"--config {path} holds settings that this version does not have: {', '.join(unknown)}")
    return {name: value for name, value in whole.items() if name in names and value is not None}


def _parsed(path: Path, parser: argparse.ArgumentParser, settings: dict) -> dict:
    """The settings, each with the type of its option."""
    flags = {action.dest: action.option_strings[0] for action in parser._actions}
    switches = {action.dest for action in parser._actions if action.nargs == 0}
    arguments = []
    for name, value in settings.items():
        if name == "method" and value == OWN and "objective" in settings:
            continue  # says no more than the objective beside it
        if name in switches and isinstance(value, bool):
            arguments += [flags[name]] if value else []
            continue
        if name in switches or isinstance(value, bool | list | dict):
            raise UserError(f"--config {path}: {name} takes one value, not {value!r}")
        arguments.append(f"{flags[name]}={value}")
    try:
        parsed = vars(parser.parse_args(arguments))
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from error
    return {name: parsed[name] for name in settings}


def _number(path: Path, name: str, value) -> float:
    whole = name == "val_steps"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < 1e9:
        raise UserError(f"--config {path}: {name} must be a {'whole ' if whole else ''}number above 0, not {value!r}")
    return value
