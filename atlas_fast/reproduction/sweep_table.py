"""The results of a sweep: a row for each setting, its seeds together, as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..training.files import make_folder, write_atomically, write_json
from . import markdown, options, results
from .runs import Run, evaluated

_NOTE = ("Accuracies in %, mean ± standard deviation over the seeds. Choose settings by `validation`, the robust "
         "accuracy there: a setting chosen by a test column has seen the test set.")


def collect(all_runs: Sequence[Run], varied: Sequence[str], attacks: Sequence[str]) -> dict:
    """{"varied", "attacks", "rows": [{"label", "options", "cells", "seeds", "runs"}]}; accuracies in [0, 1].

    varied: the options that a row shows. attacks: columns; what `evaluate` has added to them (on mnist a second step
    size) follows."""
    names = list(dict.fromkeys([*attacks, *(name for run in all_runs for name in evaluated(run))]))
    rows = []
    for members in results.groups(all_runs).values():
        found = [results.of_run(run, names) for run in members]
        cells = {key: results.cell(found, key) for key in ("clean", *names, "validation", "time")}
        rows.append({"label": members[0].label, "options": {key: value for key, value in members[0].options.items()
                                                            if key != "seed"}, "cells": cells, "runs": found})
    return {"varied": list(varied), "attacks": names, "rows": rows, "note": _NOTE}


def write(table: dict, out: Path) -> str:
    """OUT/results.json, .csv and .md; returns the Markdown."""
    make_folder(out)
    text = as_markdown(table)
    write_json(out / "results.json", table)
    for name, content in (("results.md", text), ("results.csv", as_csv(table))):
        write_atomically(out / name, partial(Path.write_text, data=content))
    return text


def as_markdown(table: dict) -> str:
    named = any(row["label"] != "run" for row in table["rows"])
    header = [*(["run"] if named else []), *map(_heading, table["varied"]), *(key for key in _accuracies(table)),
              "time per batch", "seeds"]
    rows = [[*([row["label"]] if named else []), *(_option(row, key) for key in table["varied"]),
             *(markdown.accuracy(row["cells"][key]) for key in _accuracies(table)),
             markdown.seconds(row["cells"]["time"]), _seeds(row)] for row in table["rows"]]
    sizes = {cell["n"] for row in table["rows"] for cell in row["cells"].values() if cell and "n" in cell}
    n = f"\nTest images: {markdown.joined([f'{size:,}' for size in sorted(sizes)], 'or')}." if sizes else ""
    return f"{markdown.table(header, rows)}\n\n{table['note']}{n}\n"


def as_csv(table: dict) -> str:
    """A line for each setting; accuracies in [0, 1], mean and deviation in columns of their own."""
    measured = [*_accuracies(table), "time"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", *map(_heading, table["varied"]), *(f"{key} {what}" for key in measured
                                                               for what in ("mean", "std")), "n", "seeds"])
    for row in table["rows"]:
        cells = [row["cells"][key] or {} for key in measured]
        sizes = [cell["n"] for cell in cells if "n" in cell]
        writer.writerow([row["label"], *(_option(row, key) for key in table["varied"]),
                         *("" if cell.get(what) is None else repr(cell[what]) for cell in cells
                           for what in ("mean", "std")), min(sizes, default=""), _seeds(row)])
    return buffer.getvalue()


def _accuracies(table: dict) -> list[str]:
    return ["validation", "clean", *table["attacks"]]


def _heading(key: str) -> str:
    return options.flag(key).lstrip("-")


def _option(row: dict, key: str) -> str:
    return options.text(row["options"][key]) if row["options"].get(key) is not None else ""


def _seeds(row: dict) -> str:
    """"2" or, where some are not finished, "1 of 2"."""
    finished = sum(one["trained"] for one in row["runs"])
    return str(finished) if finished == len(row["runs"]) else f"{finished} of {len(row['runs'])}"
