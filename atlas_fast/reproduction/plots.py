"""Figures, and the trainings behind a table, as pictures: from what `report.collect` gives or from the runs' logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..training.files import make_folder, write_atomically

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito (2008)
_STAR = "the paper, table 1"


def sweep(report: dict, path: Path, log_axis: bool) -> None:
    """Clean and robust accuracy along the axis, a colour for each series; bars: standard deviation over the seeds.

    A star is the paper's figure of table 1 for the point with the same settings."""
    columns = [column for column in report["columns"]
               if any(row["cells"][column["key"]]["ours"] for row in report["rows"])]
    figure, (panels,) = _figure(5 * len(columns), 4.4, 1, len(columns))
    series = list(dict.fromkeys(row["series"] for row in report["rows"]))
    for axes, column in zip(panels, columns, strict=True):
        for name, points in _series(report, column["key"]).items():
            values = [100 * cell["ours"]["mean"] for _, cell in points]
            bars = [100 * (cell["ours"]["std"] or 0) for _, cell in points]
            axes.errorbar([x for x, _ in points], values, yerr=bars if any(bars) else None, fmt="o-", capsize=3,
                          elinewidth=1, color=COLOURS[series.index(name)], label=name, markersize=5, linewidth=1.6)
        for row in report["rows"]:
            if (there := row["cells"][column["key"]]["paper"]) is not None:
                axes.plot(row["x"], 100 * there, "*", color=COLOURS[series.index(row["series"])], markersize=13,
                          markeredgecolor="#222222", label=_STAR)
        axes.set(title=_title(report, column), xlabel=report["axis"], ylabel="accuracy in %")
        _ticks(axes, sorted({row["x"] for row in report["rows"]}), log_axis)
        axes.grid(alpha=0.3)
    handles, names = panels[0].get_legend_handles_labels()
    shown = dict(zip(names, handles, strict=True))  # one entry for all stars, the last one
    names = sorted(shown, key=lambda name: name == _STAR)
    if len(names) > 1:
        figure.legend([shown[name] for name in names], names, loc="outside lower center", ncols=min(4, len(names)),
                      frameon=False)
    figure.suptitle(_heading(report))
    _save(figure, path)


def overfitting(report: dict, path: Path) -> None:
    """Figure 11: a row of panels for each run: Jacobian norm at x', robust and clean accuracy over the epochs.

    report["logs"]: [{"label", "lines" of log.jsonl}]. All accuracies are of the validation images: the test set is
    measured once."""
    logs = report["logs"]
    figure, panels = _figure(12, 3.1 * len(logs) + 0.6, len(logs), 3)
    for log, (jacobian, robust, clean) in zip(logs, panels, strict=True):
        lines, style = log["lines"], {"linewidth": 1.6, "marker": "o", "markersize": 3}
        epochs = [line["epoch"] for line in lines]
        jacobian.plot(epochs, [line["jacobian_norm"] for line in lines], color=COLOURS[2], **style)
        jacobian.set_ylabel(log["label"].replace(", ", "\n", 1).replace(", seed", "\nseed"))
        robust.plot(epochs, [100 * line["robust_accuracy"] for line in lines], color=COLOURS[1], label="PGD", **style)
        if lines and "fgsm_accuracy" in lines[0]:
            fgsm = [100 * line["fgsm_accuracy"] for line in lines]
            robust.plot(epochs, fgsm, color=COLOURS[0], label="FGSM", **style)
            robust.legend(frameon=False)
        clean.plot(epochs, [100 * line["clean_accuracy"] for line in lines], color=COLOURS[0], **style)
        for axes in (jacobian, robust, clean):
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
    titles = (r"$\|J(x')\|_F^2$ (estimate)", "robust accuracy in %", "clean accuracy in %")
    for column, title in enumerate(titles):
        panels[0, column].set_title(f"{title}, validation")
        panels[-1, column].set_xlabel("epoch")
    for column in (1, 2):  # accuracies are compared on one scale
        low = min(axes.get_ylim()[0] for axes in panels[:, column])
        high = max(axes.get_ylim()[1] for axes in panels[:, column])
        for axes in panels[:, column]:
            axes.set_ylim(0 if column == 1 else low, high)
    figure.suptitle(_heading(report))
    _save(figure, path)


def training(report: dict, path: Path) -> None:
    """Beside a table: robust accuracy, clean accuracy and Jacobian norm on the validation images, a line a row.

    report["logs"]: [{"label", "lines" of log.jsonl}], the further seeds of a row in its colour, thin."""
    figure, (panels,) = _figure(15, 4.6, 1, 3)
    rows = list(dict.fromkeys(_row(log) for log in report["logs"]))
    begun = set()
    for log in report["logs"]:
        at, first = rows.index(_row(log)), _row(log) not in begun
        begun.add(_row(log))
        style = {"color": COLOURS[at % len(COLOURS)], "linestyle": ("-", "--")[at // len(COLOURS) % 2],
                 "linewidth": 1.6 if first else 0.8, "label": _row(log) if first else None}
        epochs = [line["epoch"] for line in log["lines"]]
        for axes, key, scale in zip(panels, ("robust_accuracy", "clean_accuracy", "jacobian_norm"), (100, 100, 1),
                                    strict=True):
            axes.plot(epochs, [scale * line[key] for line in log["lines"]], **style)
    titles = ("robust accuracy in % (PGD)", "clean accuracy in %", r"$\|J\|_F^2$ (estimate)")
    for axes, title in zip(panels, titles, strict=True):
        axes.set(title=f"{title}, validation", xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[2].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(rows)),
                  frameon=False)
    figure.suptitle(_heading(report))
    _save(figure, path)


def _row(log: dict) -> str:
    return log["label"].rpartition(", seed")[0]


def _series(report: dict, key: str) -> dict[str, list[tuple[float, dict]]]:
    """{series: [(x, cell)]} of the points that are measured, along the axis."""
    found: dict[str, list] = {}
    for row in sorted(report["rows"], key=lambda row: row["x"]):
        if row["cells"][key]["ours"]:
            found.setdefault(row["series"], []).append((row["x"], row["cells"][key]))
    return {row["series"]: found[row["series"]] for row in report["rows"] if row["series"] in found}


def _title(report: dict, column: dict) -> str:
    sizes = {row["cells"][column["key"]]["ours"]["n"] for row in report["rows"] if row["cells"][column["key"]]["ours"]}
    n = f", n = {min(sizes):,}" if len(sizes) == 1 else ""
    return f"{column['attack'] or 'clean'}{n}"


def _heading(report: dict) -> str:
    models = dict.fromkeys(one["model"] for row in report["rows"] for one in row["runs"] if one.get("model"))
    return f"{report['title']}\n{', '.join([report['dataset'], *models])}"


def _ticks(axes, values: Sequence[float], log_axis: bool) -> None:
    """A tick at every value that was trained, and no other."""
    if log_axis:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()


def _figure(width: float, height: float, rows: int, columns: int):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure, path: Path) -> None:
    make_folder(path.parent)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
