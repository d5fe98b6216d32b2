"""A table of the paper as far as its runs are finished: the paper's figure beside ours, and what ours are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..training.files import make_folder, write_atomically, write_json
from . import markdown, paper, results
from .runs import Run
from .specs import Column, Plan, Row

_REFERENCE = "one-step ADV"  # times are compared by their ratio to this row's


def collect(plan: Plan, runs_of: Mapping[Row, Sequence[Run]], notes: Sequence[str]) -> dict:
    """Everything that a table or a figure says, as JSON: accuracies in [0, 1], also the paper's; times in seconds.

    runs_of: the runs of every row, a run a seed; notes: sentences about the settings."""
    rows = []
    for row in plan.rows:
        found = [results.of_run(run, plan.attacks) for run in runs_of[row]]
        cells = {column.key: _cell(plan, row, column, found) for column in plan.columns}
        rows.append({"label": row.label, "options": row.options, "x": row.x, "series": row.series, "cells": cells,
                     "validation": results.cell(found, "validation"), "runs": found})
    report = {"name": plan.name, "title": plan.title, "dataset": plan.dataset, "part": plan.part, "axis": plan.axis,
              "columns": [{"key": column.key, "title": column.title, "attack": column.attack}
                          for column in plan.columns], "rows": rows}
    return {**report, "notes": [*_notes(plan, report), *notes]}


def write(report: dict, stem: Path) -> str:
    """STEM.json and STEM.md; returns the Markdown."""
    make_folder(stem.parent)
    text = as_markdown(report)
    write_json(stem.with_name(stem.name + ".json"), report)
    write_atomically(stem.with_name(stem.name + ".md"), lambda temporary: temporary.write_text(text))
    return text


def as_markdown(report: dict) -> str:
    """Title, table, and the notes under it."""
    sizes = {column["key"]: {row["cells"][column["key"]]["ours"]["n"] for row in report["rows"]
                             if "n" in (row["cells"][column["key"]]["ours"] or {})} for column in report["columns"]}
    header = ["", *(column["title"] + (f", n = {min(sizes[column['key']]):,}" if len(sizes[column["key"]]) == 1 else "")
                    for column in report["columns"]), "best epoch / epochs"]
    rows = [[row["label"], *(_text(report, row, column["key"], len(sizes[column["key"]]) > 1)
                             for column in report["columns"]), _epochs(row)] for row in report["rows"]]
    notes = "\n".join(f"- {note}" for note in report["notes"])
    on = report["dataset"] + (f", beside the paper's {report['part']}" if report["part"] not in
                              (None, report["dataset"]) else "")
    return f"# {report['title']} ({on})\n\n{markdown.table(header, rows)}\n\n{notes}\n"


def _cell(plan: Plan, row: Row, column: Column, found: Sequence[dict]) -> dict:
    """{"ours", "paper", "suspect", "settings"}."""
    there = None
    if plan.table and row.paper and column.in_paper:
        there = paper.figure(plan.table, plan.part, row.paper, column.key)
    if there is not None and column.key != "time":
        there = round(there / 100, 6)
    name = column.attack or column.key
    ours = results.cell(found, name) if column.attack or column.key in ("clean", "time") else None
    settings = [one["attacks"][name]["settings"] for one in found if name in one["attacks"]]
    doubted = paper.suspect(plan.part, row.paper or "", column.key) if there is not None else None
    return {"ours": ours, "paper": there, "suspect": doubted, "settings": settings[0] if settings else None}


def _text(report: dict, row: dict, key: str, with_n: bool) -> str:
    """"98.67 ± 0.12 (99.47)"; a doubted figure of the paper has a dagger."""
    cell = row["cells"][key]
    if key == "time":
        ours = _time(cell["ours"] and cell["ours"]["mean"], _reference(report, "ours"))
        there = _time(cell["paper"], _reference(report, "paper"))
    else:
        ours = markdown.accuracy(cell["ours"])
        if with_n and cell["ours"]:
            ours += f" [n = {cell['ours']['n']:,}]"
        there = "" if cell["paper"] is None else f"{100 * cell['paper']:.2f}"
    return ours + (f" ({there}{'†' if cell['suspect'] else ''})" if there not in ("", "–") else "")


def _reference(report: dict, whose: str) -> float | None:
    """Seconds per batch of one-step ADV."""
    for row in report["rows"]:
        if row["label"] == _REFERENCE and (cell := row["cells"]["time"][whose]):
            return cell["mean"] if whose == "ours" else cell
    return None


def _time(value: float | None, reference: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g} s" + (f" = {value / reference:.2f}×" if reference else "")


def _epochs(row: dict) -> str:
    """"14 / 24" of every seed."""
    return ", ".join(f"{one['best_epoch']} / {one['epochs']}" for one in row["runs"] if one["trained"]) or "–"


def _notes(plan: Plan, report: dict) -> list[str]:
    """Sentences that follow from the measurements themselves."""
    notes = [_about_cells(plan, report)]
    if plan.columns and plan.columns[-1].key == "time":
        notes.append(f"Time per batch: the median over the epochs; ×: ratio to {_REFERENCE}. The paper's hardware is "
                     "not stated, so only the ratios compare.")
    doubts = dict.fromkeys(f"{row['label']}, {paper.TITLES[key]}: {cell['suspect']}" for row in report["rows"]
                           for key, cell in row["cells"].items() if cell["suspect"])
    by_reason: dict[str, list[str]] = {}
    for doubt in doubts:
        where, reason = doubt.split(": ", 1)
        by_reason.setdefault(reason, []).append(where)
    notes += [f"† {markdown.joined(where)}: {reason}." for reason, where in by_reason.items()]
    for column in plan.columns:
        settings = next((row["cells"][column.key]["settings"] for row in report["rows"]
                         if row["cells"][column.key]["settings"]), None)
        if settings:
            shown = ", ".join(f"{key} {_value(settings[key])}" for key in ("steps", "step_size", "restarts", "queries")
                              if settings.get(key) is not None)
            notes.append(f"{column.title}: `{column.attack}`" + (f" ({shown})." if shown else "."))
    finished = [one for row in report["rows"] for one in row["runs"] if one["trained"]]
    machines = dict.fromkeys(f"{one['device_name']}, torch {one['versions']['torch']}, atlas_fast "
                             f"{one['versions']['atlas_fast']}" for one in finished if one.get("versions"))
    if machines:
        notes.append(f"Trained on {markdown.joined(list(machines))}.")
    open_ = [f"{row['label']}, seed {one['seed']}" for row in report["rows"] for one in row["runs"]
             if not one["trained"] or len(one["attacks"]) < len(plan.attacks)]
    if open_:
        notes.append(f"Not finished: {'; '.join(open_)}.")
    return notes


def _about_cells(plan: Plan, report: dict) -> str:
    seeds = sorted({one["seed"] for row in report["rows"] for one in row["runs"]})
    beside = "" if not any(cell["paper"] is not None for row in report["rows"] for cell in row["cells"].values()) else \
        "; in brackets the paper's figure"
    over = f"mean ± standard deviation over the seeds {markdown.joined(list(map(str, seeds)))}" if len(seeds) > 1 else \
        f"seed {seeds[0]} alone, so no deviation"
    return f"Accuracies in % ({over}; n test images){beside}."


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
