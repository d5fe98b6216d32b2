"""curves.png: the loss and its terms, accuracies, the Jacobian's norm, eps and learning rate over the epochs."""

from __future__ import annotations

from pathlib import Path

from .files import write_atomically

LABELS = {"loss": "loss", "ce": "cross-entropy", "kl": "KL", "jacobian": r"$\|J\|_F^2$ (training)"}
COLOURS = {"loss": "#222222", "ce": "#0072b2", "kl": "#d55e00", "clean": "#0072b2", "robust": "#d55e00",
           "jacobian": "#009e73", "eps": "#cc79a7", "lr": "#56b4e9"}


def draw(lines: list[dict], path: Path, title: str, best_epoch: int | None = None) -> None:
    """Draw the lines of log.jsonl. best_epoch is marked by a dotted line."""
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
        if name in lines[0]:
            loss.plot(epochs, [line[name] for line in lines], label=LABELS[name], color=COLOURS[name], **style)
    loss.set(title="Training loss and its terms", ylabel="mean per image")
    loss.set_ylim(bottom=0)
    loss.legend()

    for name in ("clean", "robust"):
        values = [100 * line[f"{name}_accuracy"] for line in lines]
        accuracy.plot(epochs, values, label=name, color=COLOURS[name], **style)
    accuracy.set(title="Validation accuracy (PGD at the final eps)", ylabel="%", ylim=(-2, 102))
    accuracy.legend(loc="lower right")

    jacobian.plot(epochs, [line["jacobian_norm"] for line in lines], label="validation", color=COLOURS["jacobian"],
                  **style)
    if "jacobian" in lines[0]:
        jacobian.plot(epochs, [line["jacobian"] for line in lines], label="training", color=COLOURS["jacobian"],
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
    schedule.legend(handles=handles, loc="center right")

    for axes in (loss, accuracy, jacobian, schedule):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if best_epoch:
            axes.axvline(best_epoch, color="#888888", linestyle=":", linewidth=1.2)
    figure.suptitle(title + (f" (dotted: best epoch, {best_epoch})" if best_epoch else ""))
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
