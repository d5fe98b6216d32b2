"""What finished runs left in their folders, and its mean and standard deviation over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from ..training import logs
from . import runs
from .runs import Run


def of_run(run: Run, attacks: Sequence[str]) -> dict:
    """{"seed", "folder", "trained", "clean", "validation", "time", "epochs", "best_epoch", ...}; accuracies in [0, 1],
    and under "attacks" {name: {"accuracy", "n", "settings"}} of those that are measured.

    time: seconds per batch of training, the median over the epochs; validation: robust accuracy of the best epoch.
    """
    found: dict[str, Any] = {"seed": run.seed, "folder": str(run.folder), "trained": run.trained, "attacks": {}}
    if not run.trained:
        return found
    summary = runs.read_json(run.folder / "summary.json") or {}
    config = runs.read_json(run.folder / "config.json") or {}
    lines = logs.read(run.folder / "log.jsonl")
    best = next((line for line in lines if line["epoch"] == summary.get("best_epoch")), None)
    found |= {key: summary.get(key) for key in ("epochs", "best_epoch", "training_seconds")}
    found |= {key: config.get(key) for key in ("model", "device_name", "versions", "n_train", "eps")}
    found["clean"] = runs.clean(run)
    found["validation"] = best and best["robust_accuracy"]
    found["time"] = statistics.median(line["ms_per_batch"] for line in lines) / 1000 if lines else None
    for attack in attacks:
        if report := runs.measured(run, attack):
            found["attacks"][attack] = {"accuracy": report["robust_accuracy"], "n": report["n"],
                                        "settings": report["settings"]}
        elif not run.attacks and attack in summary.get("attacks", {}):  # what `train` itself ends with
            found["attacks"][attack] = {"accuracy": summary["attacks"][attack]["robust_accuracy"], "n": summary["n"],
                                        "settings": summary["attacks"][attack]["settings"]}
    return found


def spread(values: Sequence[float | None]) -> dict | None:
    """{"mean", "std", "seeds", "values"} of those that are there, or None; std: of the sample, None for one seed."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return {"mean": statistics.fmean(there), "std": statistics.stdev(there) if len(there) > 1 else None,
            "seeds": len(there), "values": there}


def cell(found: Sequence[dict], column: str) -> dict | None:
    """One cell over the seeds: `spread`, and "n" test images (the fewest of its seeds) where it is an accuracy.

    column: "clean", "validation", "time", or an attack."""
    if column in ("validation", "time"):
        return spread([one.get(column) for one in found])
    parts = [one.get("clean") if column == "clean" else one["attacks"].get(column) for one in found]
    measured = [part for part in parts if part]
    whole = spread([part["accuracy"] for part in measured])
    return whole and {**whole, "n": min(part["n"] for part in measured)}


def groups(all_runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by what they have in common, their seeds apart; a label that names two settings gets them apart too."""
    found: dict[str, list[Run]] = {}
    for run in all_runs:
        key = json.dumps([run.label, {name: run.options[name] for name in sorted(run.options) if name != "seed"}])
        found.setdefault(key, []).append(run)
    return found
