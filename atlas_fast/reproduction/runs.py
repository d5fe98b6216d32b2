"""A run of a sweep: its settings, its folder, and the command that it needs next."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from ..training.config import Config, differing, read_config, resolve
from . import options

TRAIN = (sys.executable, "-m", "atlas_fast.train")
EVALUATE = (sys.executable, "-m", "atlas_fast.evaluate")


@dataclass(frozen=True)
class Run:
    """label: what a reader calls the row; options: those of `train` that are given; folder: its own.

    attacks: names for `evaluate`, on `limit` test images (None: all), with this step_size in pixel units (None: as
    `evaluate` chooses); surrogate: the folder of the run on which "transfer" crafts.
    """

    label: str
    options: dict = field(hash=False)
    folder: Path
    attacks: tuple[str, ...] = ()
    limit: int | None = None
    step_size: float | None = None
    surrogate: Path | None = None

    @property
    def seed(self) -> int:
        return self.options.get("seed", 0)

    @property
    def config(self) -> Config:
        """All settings, checked. UserError: one that cannot be right."""
        return resolve(self.options)

    @property
    def trained(self) -> bool:
        return (self.folder / "summary.json").is_file()

    def __str__(self) -> str:
        return f"{self.label}, seed {self.seed}"


@dataclass(frozen=True)
class Stage:
    """What a run needs next. needs: a folder that must hold a trained run first."""

    name: str
    command: tuple[str, ...]
    needs: Path | None = None


def next_stage(run: Run) -> Stage | None:
    """The command that brings the run on; None: it is finished."""
    if not run.trained:
        going_on = ("--resume",) if (run.folder / "last.pt").is_file() else ()
        return Stage("training", (*TRAIN, *options.command(_without_device(run)), "--out", str(run.folder), *going_on))
    missing = [attack for attack in run.attacks if not measured(run, attack)]
    white_box = tuple(attack for attack in missing if not is_transfer(attack))
    if white_box:
        return Stage("evaluation", _evaluate(run, white_box))
    if missing:
        # The rows are judged by the same adversaries, so they are crafted once, into OUT/transfer.
        shared = ("--surrogate", str(run.surrogate), "--transfer-cache", str(run.folder.parents[1] / "transfer"))
        return Stage("black-box evaluation", (*_evaluate(run, tuple(missing)), *shared), run.surrogate)
    return None


def measured(run: Run, attack: str) -> dict | None:
    """{"robust_accuracy", "n", "settings", ...} of the attack on at least `limit` images, or None."""
    found = [(report["attacks"][attack], report) for path in _reports(run, attack) if (report := read_json(path))
             and attack in report["attacks"]]
    return max(found, key=lambda pair: pair[0]["n"])[0] if found else None


def evaluated(run: Run) -> list[str]:
    """Names of all attacks that are measured on enough images: those asked for, and those that `evaluate` adds."""
    one_of_each_kind = {is_transfer(attack): attack for attack in run.attacks}.values()
    paths = [path for attack in one_of_each_kind for path in sorted(_reports(run, attack))]
    return [name for path in paths for name in (read_json(path) or {"attacks": ()})["attacks"]]


def clean(run: Run) -> dict:
    """{"accuracy", "n", "source"}: on the most test images that were used."""
    found = [{"accuracy": report["clean_accuracy"], "n": report["n"]} for path in run.folder.glob("evaluation-*.json")
             if (report := read_json(path))]
    summary = read_json(run.folder / "summary.json") or {}
    if "clean_accuracy" in summary:
        found.append({"accuracy": summary["clean_accuracy"], "n": summary["n"]})
    return max(found, key=lambda one: one["n"]) if found else {}


def is_transfer(attack: str) -> bool:
    return re.match(r"transfer\b", attack) is not None


def check(run: Run) -> None:
    """UserError: settings that cannot be right, or a folder that was trained with others."""
    try:
        wanted = run.config
    except UserError as error:
        raise UserError(f"{run.label}: {error}") from None
    if (run.folder / "config.json").is_file():
        there, _ = read_config(run.folder)
        if names := differing(there, wanted):
            pairs = ", ".join(f"{name} {getattr(there, name)}, now {getattr(wanted, name)}" for name in names)
            raise UserError(f"{run.folder} was trained with other settings ({pairs}); remove it, or choose another "
                            "--out")


def tidy(run: Run) -> None:
    """A training that was killed before its first checkpoint can only begin again; `train` asks for a clean folder."""
    if not (run.folder / "last.pt").exists() and not run.trained:
        (run.folder / "config.json").unlink(missing_ok=True)


def _without_device(run: Run) -> dict:
    return {key: value for key, value in run.options.items() if key != "device"}


def _evaluate(run: Run, attacks: tuple[str, ...]) -> tuple[str, ...]:
    words = [*EVALUATE, str(run.folder), "--attacks", *attacks, "--out", str(_report(run, attacks))]
    if run.limit is not None:
        words += ["--limit", str(run.limit)]
    if run.step_size is not None:
        words += ["--step-size", repr(run.step_size)]
    if "data_dir" in run.options:
        words += ["--data-dir", run.options["data_dir"]]
    return tuple(words)


def _report(run: Run, attacks: tuple[str, ...]) -> Path:
    """Where an evaluation of these goes. The name says on how many images, and a hash what else matters, so that an
    interrupted evaluation finds its finished batches again."""
    kind = _kind(run, attacks[0])
    key = hashlib.sha256(json.dumps([attacks, kind]).encode()).hexdigest()[:8]
    return run.folder / f"evaluation-{kind}-{'all' if run.limit is None else run.limit}-{key}.json"


def _kind(run: Run, attack: str) -> str:
    """What must be alike for two evaluations to stand in one column."""
    step = "default" if run.step_size is None else f"{run.step_size:.6g}"
    if not is_transfer(attack):
        return f"step={step}"
    return f"transfer={hashlib.sha256(str(run.surrogate and run.surrogate.name).encode()).hexdigest()[:8]},step={step}"


def _reports(run: Run, attack: str) -> list[Path]:
    """Evaluations on enough images, with this step size and this surrogate."""
    enough = []
    for path in run.folder.glob(f"evaluation-{_kind(run, attack)}-*.json"):
        images = path.stem.split("-")[-2]
        if images == "all" or (run.limit is not None and int(images) >= run.limit):
            enough.append(path)
    return enough


def read_json(path: Path) -> dict | None:
    """A JSON file; None: missing or damaged, so that it is made again."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
