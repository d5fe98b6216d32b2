"""Settings of the methods that change the step itself (Free, FAT, YOPO) and of what combines with others (AWP, EMA).

Defaults are those of the methods' authors (see docs/paper-gaps.md); eps, and what is not named here, is the data set's.
"""

from __future__ import annotations

import math

from ..errors import UserError
from .defaults import Row

REPLAYS = 8  # Free-8: Shafahi et al. 2019 on CIFAR
PASSES, CIFAR_STEPS, MNIST_STEPS = 5, 3, 10  # YOPO-5-3 and YOPO-5-10: Zhang et al. 2019a
OMEGA = 0.001  # FAT: Zhang et al. 2020
OPTIONS = {"replays": "free", "passes": "yopo", "tau": "fat", "omega": "fat"}
"""Option -> the only method that has it."""


def own_defaults(dataset: str, method: str, row: Row, given: dict) -> dict:
    """Settings that the method replaces in the data set's row; what is given comes first."""
    eps = given.get("eps", row.eps)
    if method == "free":
        replays = given.get("replays", REPLAYS)
        _whole("--replays", replays, 1)
        return {"replays": replays, "steps": 1, "step_size": eps, "epochs": math.ceil(row.epochs / replays),
                "ramp_epochs": 0.0}
    if method == "yopo":
        passes = given.get("passes", PASSES)
        _whole("--passes", passes, 1)
        mnist = dataset == "mnist"
        return {"passes": passes, "steps": MNIST_STEPS if mnist else CIFAR_STEPS,
                "step_size": eps / 30 if mnist else eps / 4, "lr": (0.1 if mnist else 2 * row.lr) / passes,
                "ramp_epochs": 0.0}
    if method == "fat":
        return {"steps": row.val_steps, "omega": OMEGA, "bn_mode": "eval", "ramp_epochs": 0.0}
    return {}


def extras(method: str, given: dict) -> dict:
    """The settings of Config that belong to these methods, checked. UserError: one that this method does not have."""
    for name, owner in OPTIONS.items():
        if name in given and method != owner:
            raise UserError(f"--{name} belongs to --method {owner}; {method} has none")
    if method == "free" and given["steps"] != 1:
        raise UserError(f"free makes one step in each replay: leave --steps away (not {given['steps']}) or give "
                        "--replays")
    if "awp" in given and method in ("free", "yopo"):
        raise UserError(f"--awp needs an adversary that is made before the weights' gradient, and {method} makes none")
    if "awp_warmup" in given and "awp" not in given:
        raise UserError("--awp-warmup says when the weight perturbation begins: give --awp as well")
    for name, low in (("tau", 0), ("awp_warmup", 0)):
        if name in given:
            _whole(f"--{name.replace('_', '-')}", given[name], low)
    for name, low, high in (("omega", 0, math.inf), ("awp", 0, math.inf), ("ema", 0, 1)):
        if name in given and not (low <= given[name] < high and (name == "omega" or given[name] > 0)):
            raise UserError(f"--{name} must be a number {'from' if name == 'omega' else 'above'} {low}"
                            f"{' and below 1' if high == 1 else ''}, not {given[name]}")
    return {name: given.get(name) for name in (*OPTIONS, "awp", "awp_warmup", "ema")}


def tau(fixed: int | None, epoch: int, epochs: int) -> int:
    """FAT's tau in an epoch (from 1): the fixed one, or its authors' 0, 1 and 2 up to epochs 50, 90 and 120 of 120."""
    if fixed is not None:
        return fixed
    return 0 if 12 * epoch <= 5 * epochs else 1 if 4 * epoch <= 3 * epochs else 2


def _whole(option: str, value: int, low: int) -> None:
    if value != int(value) or value < low:
        raise UserError(f"{option} must be a whole number from {low} up, not {value}")
