"""A method's settings on each data set, as `python -m atlas_fast.train` resolves them from its table of defaults."""

from __future__ import annotations

from atlas_fast.errors import UserError
from atlas_fast.objectives import PRESETS, parameters
from atlas_fast.reproduction.options import flag
from atlas_fast.training.config import Config, resolve
from atlas_fast.training.defaults import ONE_STEP
from bench.harness import markdown

DATASETS = ("digits", "mnist", "cifar10", "cifar100")
OF_THE_METHOD = ("steps", "eps", "step_size", "alpha", "beta", "noise", "replays", "passes", "tau", "omega",
                 "ramp_epochs", "bn_mode")
OF_THE_DATA = ("model", "epochs", "lr", "momentum", "weight_decay", "batch_size", "augment")
IN_A_CALL = ("eps", "alpha", "beta", "steps", "noise", "omega")  # what is left away there has the same default
PIXELS = ("eps", "step_size", "omega")


def resolved(method: str, dataset: str, **given) -> tuple[Config, tuple[str, ...]]:
    """The settings, and the names of those that have no default there and must be given."""
    wanted = {"method": method, "dataset": dataset, "device": "cpu", **given}
    try:
        return resolve(wanted), ()
    except UserError:
        open_ = tuple(name for name in ("alpha", "beta") if name in parameters(method))
        return resolve({**wanted, **dict.fromkeys(open_, 1.0)}), open_


def several(method: str, dataset: str) -> int | None:
    """The steps of the multi-step variant where the method has one beside its default."""
    config, _ = resolved(method, dataset)
    if method in ONE_STEP or method in ("free", "yopo", "fat") or config.steps != 1:
        return None
    return config.val_steps


def section(method: str) -> str:
    """The page's section."""
    columns = {dataset: _column(method, dataset) for dataset in DATASETS}
    names = [name for name in (*OF_THE_METHOD, *OF_THE_DATA)
             if any(column.get(name) not in (None, "") for column in columns.values())]
    rows = [{"option": f"`{flag(name)}`", **{dataset: columns[dataset][name] for dataset in DATASETS}}
            for name in names]
    two = any(several(method, dataset) for dataset in DATASETS)
    return ("## Settings\n" + markdown(rows, ["option", *DATASETS]) + "\n\n`npz` and `imagefolder` have the settings "
            "of CIFAR-10 without augmentation. Lengths are in pixel units, images in [0, 1]."
            + (" Where two values stand, the first belongs to one step, the second to several." if two else ""))


def _column(method: str, dataset: str) -> dict[str, str]:
    """{setting: text} of one data set."""
    steps = several(method, dataset)
    variants = [resolved(method, dataset)] + ([resolved(method, dataset, steps=steps)] if steps else [])
    column = {}
    for name in (*OF_THE_METHOD, *OF_THE_DATA):
        texts = [_text(name, config, open_) for config, open_ in variants]
        column[name] = texts[0] if len(set(texts)) == 1 else "; ".join(texts)
    return column


def _text(name: str, config: Config, open_: tuple[str, ...]) -> str:
    value = getattr(config, name)
    if name in open_:
        return "to be given"
    if not config.has_adversary and name in ("eps", "step_size", "ramp_epochs", "bn_mode"):
        return ""
    if name == "tau" and config.method == "fat" and value is None:
        return "0, later 1 and 2"
    if value is None:
        return ""
    in_255 = value * 255 if name in PIXELS else 0.5
    if abs(in_255 - round(in_255)) < 1e-6:
        return f"{round(in_255)}/255"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def use(method: str) -> str:
    """How to choose the method, with its CIFAR-10 settings: in a line of Python, where it has a row, and on the command
    line."""
    command = f"```sh\npython -m atlas_fast.train --dataset cifar10 --method {method}\n```"
    if method not in PRESETS:
        return command
    config, open_ = resolved(method, "cifar10")
    given = {name: _text(name, config, open_).replace("/", " / ") for name in parameters(method) if name in IN_A_CALL}
    keywords = ", ".join(f"{name}={text}" for name, text in given.items())
    return f"```python\nobjective = af.objectives.{method}({keywords})\n```\n\n{command}"
