"""curves.png: the loss and its terms, accuracies, the Jacobian's norm, eps and learning rate over the epochs.

It holds the curves of the paper's figure 11, and shades the epochs that are overfitted catastrophically.
"""

from __future__ import annotations

from pathlib import Path

from .files import write_atomically

LABELS = {"loss": "loss", "ce": "cross-entropy", "kl": "KL", "jacobian": r"$\|J\|_F^2$ (training)"}
COLOURS = {"loss": "#222222", "ce": "#0072b2", "kl": "#d55e00", "clean": "#0072b2", "robust": "#d55e00",
           "adversary": "#e69f00", "fgsm": "#999999", "jacobian": "#009e73", "eps": "#cc79a7", "lr": "#56b4e9",
           "overfitted": "#cc0000"}
ACCURACIES = {"clean": "clean", "fgsm": "FGSM", "adversary": "training's adversary", "robust": "robust (PGD)"}


def draw(lines: list[dict], path: Path, title: str, best_epoch: int | None = None) -> None:
    """Draw the lines of log.jsonl. best_epoch is marked by a dotted line, overfitting by red areas.

    A term that joined later (a rewind may turn the Jacobian on) is drawn from there on, as are numbers that an earlier
    version did not log."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in lines]
    marker = "o" if len(epochs) < 40 else None
    style = {"marker": marker, "markersize": 3, "linewidth": 1.6}
    figure = Figure(figsize=(11, 7), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    (loss, accuracy), (jacobian, schedule) = figure.subplots(2, 2, sharex=True)

    for name in ("loss", "ce", "kl"):
        if any(name in line for line in lines):
            loss.plot(epochs, values(lines, name), label=LABELS[name], color=COLOURS[name], **style)
    loss.set(title="Training loss and its terms", ylabel="mean per image")
    loss.set_ylim(bottom=0)
    loss.legend()

    for name, label in ACCURACIES.items():
        if any(f"{name}_accuracy" in line for line in lines):
            accuracy.plot(epochs, values(lines, f"{name}_accuracy", 100), label=label, color=COLOURS[name],
                          **{**style, "linewidth": 1.6 if name in ("clean", "robust") else 1.0})
    accuracy.set(title="Validation accuracy (attacks at the final eps)", ylabel="%", ylim=(-2, 102))
    accuracy.legend(loc="lower right")

    jacobian.plot(epochs, [line["jacobian_norm"] for line in lines], label="validation", color=COLOURS["jacobian"],
                  **style)
    if any("jacobian" in line for line in lines):
        jacobian.plot(epochs, values(lines, "jacobian"), label="training", color=COLOURS["jacobian"],
                      linestyle="--", linewidth=1.2)
        jacobian.legend()
    jacobian.set(title=r"Jacobian norm $\|J(x')\|_F^2$ (estimate)", ylabel="logits² / pixel²", xlabel="epoch")
    if all(line["jacobian_norm"] > 0 for line in lines):
        jacobian.set_yscale("log")

    schedule.plot(epochs, [line["eps"] for line in lines], color=COLOURS["eps"], label="eps (end of epoch)", **style)
    schedule.set(title="Perturbation eps and learning rate", ylabel="eps", xlabel="epoch")
    schedule.set_ylim(bottom=0)
    rate = schedule.twinx()
    rate.step(epochs, [line["lr"] for line in lines], where="mid", color=COLOURS["lr"], label="learning rate")
    rate.set(ylabel="learning rate", yscale="log")
    handles = [*schedule.get_lines(), *rate.get_lines()]
    schedule.legend(handles=handles, loc="lower center")

    for axes in (loss, accuracy, jacobian, schedule):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if best_epoch:
            axes.axvline(best_epoch, color="#888888", linestyle=":", linewidth=1.2)
        for line in lines:
            if line.get("overfitted"):
                axes.axvspan(line["epoch"] - 0.5, line["epoch"] + 0.5, color=COLOURS["overfitted"], alpha=0.15,
                             linewidth=0)
    figure.suptitle(", ".join([title, *remarks(lines, best_epoch)]))
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def values(lines: list[dict], name: str, factor: float = 1.0) -> list[float]:
    """NaN, which leaves a gap, where a line has no such number."""
    return [factor * line.get(name, float("nan")) for line in lines]


def remarks(lines: list[dict], best_epoch: int | None) -> list[str]:
    """What the dotted line and the red areas mean, where there are any."""
    found = [f"dotted: best epoch {best_epoch}"] if best_epoch else []
    overfitted = [line["epoch"] for line in lines if line.get("overfitted")]
    if overfitted:
        found.append(f"red: catastrophic overfitting from epoch {overfitted[0]}")
    rewinds = [str(line["epoch"]) for line in lines if "rewind" in line]
    return [*found, f"rewound after epoch {', '.join(rewinds)}"] if rewinds else found
