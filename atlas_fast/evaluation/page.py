"""report.html: one file with everything in it, plots and images included; nothing is fetched from anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..training.files import write_atomically
from . import figures
from .tables import attack_rows


@dataclass(frozen=True)
class Extras:
    """What the page shows beside the report: pictures (`pictures.grid`), first-order distances
    (`distances.measure`) and those of the adversaries {"l2": {attack: values}, "linf": ...}."""

    pictures: list[dict] = field(default_factory=list)
    distances: dict[str, np.ndarray] | None = None
    found: dict[str, dict[str, np.ndarray]] = field(default_factory=lambda: {"l2": {}, "linf": {}})


def write_report(path: Path, report: dict, extras: Extras) -> None:
    """The page of one evaluation. report: what evaluation.json holds."""
    rows = attack_rows(report)
    plots = {"accuracy": figures.accuracy_bars(rows)}
    if "curves" in report:
        plots["curves"] = figures.accuracy_curves(report["curves"], report["eps"])
    if extras.distances is not None and len(extras.distances["index"]):
        plots["distances"] = figures.distance_histograms(extras.distances, extras.found, report["eps"], report["norm"])
    about = {key: report[key] for key in ("dataset", "run", "n", "eps", "norm", "seed", "device", "atlas_fast", "torch")
             if key in report}
    _write(path, "report.html.jinja", report=report, rows=rows, about=about, plots=plots, pictures=extras.pictures)


def write_comparison(path: Path, comparison: dict) -> None:
    """The page of `compare.side_by_side`."""
    _write(path, "comparison.html.jinja", comparison=comparison, plot=figures.comparison_bars(comparison))


def _write(path: Path, template: str, **values) -> None:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda value: f"{100 * value:.2f}%"
    html = environment.get_template(template).render(**values)
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
