"""Several evaluated runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

from ..attacks.checks import finite
from ..errors import UserError
from .tables import aligned


def read_report(run_dir: Path) -> dict:
    """RUN_DIR/evaluation.json, or the JSON file itself. UserError: missing, corrupt, or not a report."""
    path = run_dir / "evaluation.json" if run_dir.is_dir() else run_dir
    if not path.is_file():
        raise UserError(f"{run_dir} has no evaluation to compare; python -m atlas_fast.evaluate {run_dir} makes one")
    try:
        report = json.loads(path.read_text())
        for result in (report["worst_case"], *report["attacks"].values()):
            _check_result(result["robust_accuracy"], result["standard_error"], result["n"])
        if any(not isinstance(result["settings"], dict) for result in report["attacks"].values()):
            raise TypeError("settings of an attack that are none")
        _check_result(report["clean_accuracy"], report["clean_standard_error"], report["n"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a report of this version; python -m atlas_fast.evaluate writes it again") \
            from error
    return report


def _check_result(accuracy, error, n) -> None:
    """Raises ValueError or TypeError for what cannot be an accuracy, its standard error and a number of images."""
    finite(n, "n")
    if not 0 <= finite(accuracy, "accuracy") <= 1 or not 0 <= finite(error, "standard error") <= 1 or n < 1:
        raise ValueError(f"{accuracy!r} of {n!r} images is no accuracy")


def side_by_side(runs: list[Path]) -> dict:
    """{"runs": names, "rows": [{"name", "cells": [{"accuracy", "error", "n"} or None]}], "notes": sentences}."""
    if len(runs) < 2:
        raise UserError("--compare needs at least two runs")
    reports = [read_report(run) for run in runs]
    names = list(dict.fromkeys(name for report in reports for name in report["attacks"]))
    rows = [{"name": "clean", "cells": [_cell(report["clean_accuracy"], report["clean_standard_error"], report["n"])
                                        for report in reports]}]
    for name in names:
        found = [report["attacks"].get(name) for report in reports]
        rows.append({"name": name, "cells": [result and _cell(result["robust_accuracy"], result["standard_error"],
                                                              result["n"]) for result in found]})
    rows.append({"name": "worst case", "cells": [
        _cell(*(report["worst_case"][key] for key in ("robust_accuracy", "standard_error", "n")))
        for report in reports]})
    return {"runs": [str(run) for run in runs], "rows": rows, "notes": _notes(reports, names)}


def _cell(accuracy: float, error: float, n: int) -> dict:
    return {"accuracy": accuracy, "error": error, "n": n}


def _notes(reports: list[dict], names: list[str]) -> list[str]:
    """Where the columns are not measurements of the same thing."""
    notes = []
    for key, what in (("dataset", "data sets"), ("n", "numbers of images"), ("images", "images")):
        values = list(dict.fromkeys(str(report.get(key)) for report in reports))
        if len(values) > 1:
            notes.append(f"The runs were evaluated on different {what}"
                         f"{'' if key == 'images' else ': ' + ', '.join(values)}.")
            break
    for name in names:
        settings = [report["attacks"][name]["settings"] for report in reports if name in report["attacks"]]
        different = sorted(key for key in {key for one in settings for key in one}
                           if any(one.get(key) != settings[0].get(key) for one in settings))
        if different:
            notes.append(f"{name} ran with different settings ({', '.join(different)}).")
    if any(set(report["attacks"]) != set(names) for report in reports):
        notes.append("The worst cases are over different attacks.")
    return notes


def comparison_table(comparison: dict) -> str:
    """For a terminal."""
    lines = [("", *comparison["runs"], "")]
    for row in comparison["rows"]:
        cells = ["–" if cell is None else f"{cell['accuracy']:.2%} ± {cell['error']:.2%}" for cell in row["cells"]]
        lines.append((row["name"], *cells, ""))
    return "\n".join([*aligned(lines), *comparison["notes"]])
