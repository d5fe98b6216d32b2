"""A method's measured figures, from the records in bench/results and docs/results; nothing is typed by hand.

Three kinds of record hold accuracies: that of one training ({"training": summary.json, "evaluation": evaluation.json}),
that of several runs under many attacks ({"runs": {"one-step atlas": ...}}), and a table of `reproduce` ({"rows": ...}).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from atlas_fast.training.summary import method_name
from bench import harness, report

ROOT = Path(__file__).resolve().parents[1]
STEPS, ACCURACIES = ROOT / "bench" / "results", ROOT / "docs" / "results"
COLUMNS = ["steps", "data", "network", "attack", "eps", "step size", "accuracy %", "n", "seeds"]
STATED = ("what", "command", "note", "device_name", "device", "machine", "torch", "atlas_fast", "commit", "date")


def section(method: str) -> str:
    """The page's section."""
    return "## Measured\n" + "\n\n".join([_accuracies(method), _times(method)])


def _accuracies(method: str) -> str:
    parts = []
    for path in sorted(ACCURACIES.glob("*.json")):
        record = json.loads(path.read_text())
        if rows := list(accuracies(record, method)):
            used = [column for column in COLUMNS if any(row.get(column) not in (None, "") for row in rows)]
            parts.append(f"`{path.relative_to(ROOT)}`: {stated(record)}\n\n{harness.markdown(rows, used)}")
    return "### Accuracy\n" + ("\n\n".join(parts) or "Not measured.")


def accuracies(record: dict, method: str) -> Iterator[dict]:
    """The record's rows of this method, by COLUMNS; accuracies in per cent."""
    if "training" in record:
        yield from _of_training(record, method)
    for name, run in record.get("runs", {}).items() if isinstance(record.get("runs"), dict) else ():
        yield from _of_run(name, run, method)
    for row in record.get("rows", ()):
        if row.get("options", {}).get("method") == method:
            yield from _of_table(record, row)


def stated(record: dict) -> str:
    """What the record says of where its figures come from; what it does not say is not made up."""
    parts = []
    for place in (record, record.get("training", {}), record.get("evaluation", {})):
        for key in STATED:
            value = place.get(key)
            if isinstance(value, str):
                parts.append({"command": f"`{value}`", "what": value, "note": value}.get(key, f"{key} {value}"))
    machines = {f"{run['device_name']}, torch {run['versions']['torch']}, atlas_fast {run['versions']['atlas_fast']}"
                for row in record.get("rows", ()) for run in row.get("runs", ()) if run.get("versions")}
    return "; ".join(dict.fromkeys([*parts, *sorted(machines)])) + "."


def _of_training(record: dict, method: str) -> Iterator[dict]:
    summary = record["training"]
    if summary["method"] != method:
        return
    row = {"steps": summary["steps"], "data": summary["dataset"], "network": summary["model"],
           "seeds": str(summary["seed"])}
    yield {**row, "attack": "none", **_percent(summary["clean_accuracy"]), "n": summary["n"]}
    for part in (summary, record.get("evaluation", {})):
        for name, attack in part.get("attacks", {}).items():
            yield {**row, **_of_attack(name, attack), "n": attack.get("n", part["n"])}


def _of_run(name: str, run: dict, method: str) -> Iterator[dict]:
    steps = next((k for k in (0, 1, *range(2, 101)) if name == method_name(method, k)), None)
    if steps is None:
        return
    row = {"steps": steps, "data": run.get("dataset"), "network": run.get("model"), "seeds": run.get("seed")}
    yield {**row, "attack": "none", **_percent(run["clean_accuracy"]["value"]), "n": run["clean_accuracy"]["n"]}
    for attack, found in run["attacks"].items():
        yield {**row, **_of_attack(attack, found), "n": found["n"]}


def _of_table(record: dict, row: dict) -> Iterator[dict]:
    first = next((run for run in row["runs"] if run["trained"]), None)
    for column in record["columns"]:
        cell = row["cells"][column["key"]]
        if first is None or not cell["ours"] or "n" not in cell["ours"]:
            continue
        ours, settings = cell["ours"], cell["settings"] or {}
        yield {"steps": row["options"].get("steps", ""), "data": record["dataset"], "network": first["model"],
               "attack": column["attack"] or "none", "eps": settings.get("eps"), "step size": settings.get("step_size"),
               **_percent(ours["mean"], ours["std"]), "n": ours["n"],
               "seeds": ", ".join(str(run["seed"]) for run in row["runs"] if run["trained"])}


def _of_attack(name: str, attack: dict) -> dict:
    settings = attack.get("settings") or {}
    return {"attack": name, "eps": settings.get("eps"), "step size": settings.get("step_size"),
            **_percent(attack["robust_accuracy"])}


def _percent(value: float, deviation: float | None = None) -> dict:
    return {"accuracy %": f"{100 * value:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")}


def _times(method: str) -> str:
    parts = []
    for path in sorted(STEPS.glob("step-*.json")):
        record = harness.load(path)
        rows = [row for row in record["rows"] if row["method"].partition("-")[0] == method and row.get("ms")]
        used = [mark for mark in record["environments"] if any(row["environment"] == mark for row in rows)]
        if rows:
            letters = {mark: chr(ord("A") + i) for i, mark in enumerate(used)}
            shown = [{**row, "where": letters[row["environment"]]} for row in rows]
            table = harness.markdown(shown, ["model", "method", "batch", "variant", "ms", "images/s", "ratio", "where"])
            lines = "\n".join(f"- {letter}: {report.describe(record['environments'][mark])}"
                              for mark, letter in letters.items())
            parts.append(f"`{path.relative_to(ROOT)}`, by `python -m bench.step`; ratio: times as fast as plain "
                         f"PyTorch in float32.\n\n{table}\n\n{lines}")
    return "### Time of a step\n" + ("\n\n".join(parts) or "Not measured.")
