"""The files of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..training.files import make_folder, write_atomically, write_json
from . import pictures
from .page import Extras, write_report
from .parts import file_name
from .robust_accuracy import Measured
from .run import Evaluation
from .samples import per_sample_arrays, save_npz


@dataclass(frozen=True)
class Output:
    """Where everything goes. parts and adversaries are folders."""

    json: Path
    html: Path
    per_sample: Path
    adversaries: Path
    parts: Path

    @classmethod
    def of(cls, run_dir: Path, out: Path | None) -> Output:
        """In the run's folder, or beside `out` (FILE.json, FILE.html, FILE.per_sample.npz, ...). UserError: the
        folder cannot be written."""
        if out is None:
            writable(run_dir / "evaluation.json")
            return cls(run_dir / "evaluation.json", run_dir / "report.html", run_dir / "per_sample.npz",
                       run_dir / "adversaries", run_dir / "evaluation.parts")
        if out.suffix == ".html":
            raise UserError(f"--out names the JSON file, the page goes beside it: --out {out.with_suffix('.json')}")
        writable(out)
        return cls(out, *(out.with_suffix(f".{end}") for end in ("html", "per_sample.npz", "adversaries", "parts")))


def writable(out: Path) -> None:
    """Make the file's folder. UserError where it cannot be written, or where `out` is a folder itself."""
    make_folder(out.parent)
    if out.is_dir():
        raise UserError(f"--out must be a file, but {out} is a folder")


def write_all(output: Output, report: dict, measured: Measured, evaluation: Evaluation, classes: list[str]) -> None:
    """Adversaries (where all were kept), per-sample results, page, and at last the report. classes: names."""
    labels, prediction = evaluation.y.cpu().numpy(), measured.prediction
    correct = labels == prediction
    if evaluation.keep_all:
        make_folder(output.adversaries)
        for name, result in measured.results.items():
            _save_array(output.adversaries / f"{file_name(name)}.npy", result.adversaries)
    save_npz(output.per_sample, per_sample_arrays(labels, prediction, measured.results, measured.distances))
    found = {norm: {name: getattr(result, norm)[result.broken & correct[result.index]]
                    for name, result in measured.results.items()} for norm in ("l2", "linf")}
    grid = pictures.grid(evaluation.x, labels, correct, measured.results, classes)
    write_report(output.html, report, Extras(grid, measured.distances, found))
    write_json(output.json, report)


def _save_array(path: Path, array: np.ndarray) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)

    write_atomically(path, write)
