"""The plots of a report as SVG for inlining into a page: text and axes take the page's colour, so dark pages work."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito (2008)
_INK = "#010203"  # stands for the page's text colour until the SVG is written
_HIGHEST = 40  # % of images in a bin that a histogram shows
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "atlas_fast", "font.size": 10, "axes.spines.top": False,
          "axes.spines.right": False, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
          "savefig.facecolor": "none", "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK,
          "xtick.color": _INK, "ytick.color": _INK, "text.parse_math": False}


def svg(name: str, draw: Callable, width: float = 7.0, height: float = 3.2, axes: int = 1) -> str:
    """What draw(*axes) draws, as an <svg> element; `name` keeps its ids apart from those of other figures."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(*np.ravel(figure.subplots(1, axes)))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg",
                       metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):].replace(_INK, "currentColor")
    text = re.sub(r'(\bid=")', rf"\g<1>{name}-", text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" class="{name}" ', 1)


def accuracy_bars(rows: list[dict]) -> str:
    """Accuracies in % with 95% intervals; rows: {"name", "result"} of tables.attack_rows."""

    def draw(axes):
        for position, row in enumerate(rows):
            result = row["result"]
            value = 100 * result["robust_accuracy"]
            low, high = (100 * end for end in result.get("interval_95", (result["robust_accuracy"],) * 2))
            colour = COLOURS[0] if position == 0 else COLOURS[2] if row["name"] == "worst case" else COLOURS[1]
            axes.barh(position, value, color=colour, xerr=[[max(0, value - low)], [max(0, high - value)]],
                      error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 3})
            axes.annotate(f"{value:.2f}", (high, position), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axes.invert_yaxis()
        axes.set(xlabel="accuracy in % (95% interval)", xlim=(0, 112))
        axes.set_xticks(range(0, 101, 20))

    return svg("accuracy", draw, height=1.0 + 0.34 * len(rows))


def comparison_bars(comparison: dict) -> str:
    """A group of bars for every row of compare.side_by_side, a colour for every run; lines: one standard error."""
    rows, runs = comparison["rows"], comparison["runs"]

    def draw(axes):
        height = 0.8 / len(runs)
        for number, run in enumerate(runs):
            cells = [(row_number, row["cells"][number]) for row_number, row in enumerate(rows) if row["cells"][number]]
            axes.barh([position - 0.4 + height * (number + 0.5) for position, _ in cells],
                      [100 * cell["accuracy"] for _, cell in cells], 0.9 * height, label=run,
                      xerr=[100 * cell["error"] for _, cell in cells], color=COLOURS[number % len(COLOURS)],
                      error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 2})
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axes.invert_yaxis()
        axes.set(xlabel="accuracy in % (± standard error)", xlim=(0, 104))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=8)

    return svg("comparison", draw, width=8.0, height=1.2 + (0.2 + 0.16 * len(runs)) * len(rows) + 0.2 * len(runs))


def accuracy_curves(curves: dict, eps: float) -> str:
    """Robust accuracy against eps and against the number of steps, with bands of 95%."""

    def draw(by_eps, by_steps):
        for axes, points, key in ((by_eps, curves["eps"], "eps"), (by_steps, curves["steps"], "steps")):
            at = [point[key] for point in points]
            low, high = zip(*(point["interval_95"] for point in points), strict=True)
            axes.fill_between(at, 100 * np.array(low), 100 * np.array(high), color=COLOURS[1], alpha=0.25, linewidth=0)
            axes.plot(at, [100 * point["robust_accuracy"] for point in points], "o-", color=COLOURS[1], markersize=4)
            axes.set(ylim=(-2, 102), ylabel="robust accuracy in %")
            axes.grid(alpha=0.3)
        by_eps.axvline(eps, color=_INK, linestyle=":", linewidth=1)
        by_eps.set(xlabel=f"eps, pixel units (PGD-{curves['eps'][-1]['steps']}; dotted: {eps:.4g})")
        by_steps.set(xlabel=f"steps of PGD (eps {eps:.4g})", xscale="log")
        by_steps.set_xticks([point["steps"] for point in curves["steps"]],
                            [str(point["steps"]) for point in curves["steps"]])
        by_steps.minorticks_off()

    return svg("curves", draw, width=9.0, axes=2)


def distance_histograms(distances: dict[str, np.ndarray], found: dict[str, dict[str, np.ndarray]], eps: float,
                        norm: str) -> str:
    """First-order distances (keys l2, bound, linf) beside those of adversaries; found: {"l2": {attack: values}, ...}.
    """

    def draw(l2, linf):
        _histogram(l2, {"equation 11 (lower bound)": distances["bound"], "equation 10": distances["l2"]}, found["l2"])
        _histogram(linf, {"equation 10, dual norm": distances["linf"]}, found["linf"])
        l2.set(xlabel="L2 distance, pixel units")
        linf.set(xlabel="Linf distance, pixel units")
        (linf if norm == "Linf" else l2).axvline(eps, color=_INK, linestyle=":", linewidth=1)
        (linf if norm == "Linf" else l2).set_ylim(top=_HIGHEST)  # most attacks go to the edge of their ball

    return svg("distances", draw, width=9.0, height=3.8, axes=2)


def _histogram(axes, bounds: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    """Filled: first-order distances; lines: what attacks found. The axis ends at the 99th percentile."""
    values = {name: part[np.isfinite(part)] for name, part in {**bounds, **found}.items()}
    values = {name: part for name, part in values.items() if len(part)}
    if not values:
        return
    top = max(float(np.quantile(part, 0.99)) for part in values.values()) * 1.05 or 1.0
    bins = np.linspace(0, top, 41)
    for number, (name, part) in enumerate(values.items()):
        style = {"histtype": "stepfilled", "alpha": 0.5} if name in bounds else {"histtype": "step", "linewidth": 1.5}
        axes.hist(part, bins, weights=np.full(len(part), 100 / len(part)), label=name,
                  color=COLOURS[number % len(COLOURS)], **style)
    axes.set(ylabel="% of images")
    axes.legend(fontsize=8)
