"""The trainer: epochs of steps, a validation after each, checkpoints, and the end that the schedule decides."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ..errors import UserError
from . import checkpoint, curves, logs
from .progress import Progress
from .setup import Run
from .validation import measure

CHECK_EVERY = 100  # steps between two looks at the loss; each look waits for the device
DRAW_EVERY = 30.0  # seconds between two drawings of the curves; one takes about half a second


def train(run: Run, out: Path, resume: bool = False) -> None:
    """Train until the schedule ends it; leaves log.jsonl, last.pt, best.safetensors and curves.png in `out`.

    The folder exists and holds config.json. resume: go on from last.pt, on the same device with the same result as
    without the interruption (bit by bit on a CPU). UserError: a loss that is not finite; what was saved stays.
    """
    config, schedule = run.config, run.schedule
    lines, seconds = restore(run, out) if resume else ([], 0.0)
    if not resume:
        save(run, out, seconds)
    per_epoch = len(run.batches) * config.batch_size
    progress = Progress(config.epochs * per_epoch, schedule.epoch * per_epoch)
    drawn = time.perf_counter()
    try:
        while not schedule.finished:
            line, improved = one_epoch(run, progress)
            seconds += line["seconds"]
            if improved:
                checkpoint.save_weights(out / "best.safetensors", run.network)
            logs.append(out / "log.jsonl", line)
            save(run, out, seconds)
            lines.append(line)
            progress.line(line, config.epochs, improved)
            if schedule.finished or time.perf_counter() - drawn > DRAW_EVERY:
                curves.draw(lines, out / "curves.png", title(run), schedule.best_epoch)
                drawn = time.perf_counter()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped in epoch {schedule.epoch + 1}; --resume --out {out} goes on from the end of "
                                f"epoch {schedule.epoch}") from None
    except torch.OutOfMemoryError as error:
        raise UserError(f"{run.device} ran out of memory in epoch {schedule.epoch + 1}; a smaller --batch-size needs "
                        "less") from error
    finally:
        progress.close()
    if schedule.best_epoch is None:  # the whole run was the ramp
        checkpoint.save_weights(out / "best.safetensors", run.network)


def one_epoch(run: Run, progress: Progress) -> tuple[dict, bool]:
    """Train for an epoch and validate. Returns its line of the log, and whether it is the best so far."""
    config, schedule = run.config, run.schedule
    number, lr = schedule.epoch + 1, schedule.lr
    progress.epoch(number, config.epochs)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    started = time.perf_counter()
    terms = steps(run, number, progress)
    trained = time.perf_counter() - started
    progress.doing("validating")
    measured = measure(run.network, *run.data.val, run.attack, run.device, run.bf16)
    # Selecting a plainly trained network by its robust accuracy (near 0) would select noise.
    improved = schedule.update(measured["clean_accuracy" if config.method == "plain" else "robust_accuracy"])
    eps = config.eps_at(schedule.ramp(number))
    line = {"epoch": number, "lr": lr, "eps": eps, **terms, **measured, "seconds": time.perf_counter() - started,
            "ms_per_batch": 1000 * trained / len(run.batches)}
    return line, improved


def steps(run: Run, number: int, progress: Progress) -> dict[str, float]:
    """The epoch's steps. Returns the means of the loss and its terms, which stay on the device until the end."""
    count, totals = len(run.batches), {}
    run.model.train()
    run.begin_epoch(number)
    for i, (x, y) in enumerate(run.batches.epoch(number - 1)):
        run.step.ramp = run.schedule.ramp(number - 1 + i / count)
        terms = run.step(x, y)
        if not totals:
            totals = {name: torch.zeros_like(value) for name, value in terms.items()}
        for name, value in terms.items():
            totals[name] += value
        if i % CHECK_EVERY == CHECK_EVERY - 1:
            check_finite(totals, number)
        progress.step(len(y))
    check_finite(totals, number)
    if not all(torch.stack([p.isfinite().all() for p in run.model.parameters()]).tolist()):
        raise UserError(f"the weights are not finite in epoch {number}: a gradient was not; lower --lr or --alpha")
    return {name: float(value) / count for name, value in totals.items()}


def check_finite(totals: dict[str, torch.Tensor], epoch: int) -> None:
    """UserError naming the epoch and the terms that are NaN or infinite."""
    finite = torch.stack([value.isfinite() for value in totals.values()]).tolist()
    wrong = [name for name, fine in zip(totals, finite, strict=True) if not fine]
    if wrong:
        parts = [name for name in wrong if name != "loss"] or wrong
        raise UserError(f"the loss is not finite in epoch {epoch} (term: {', '.join(parts)}); lower --lr or --alpha, "
                        "what was saved before stays")


def save(run: Run, out: Path, seconds: float) -> None:
    checkpoint.save_last(out / "last.pt", {
        "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "step": run.step.state_dict(),
        "schedule": run.schedule.state_dict(), "seconds": seconds})


def restore(run: Run, out: Path) -> tuple[list[dict], float]:
    """Load last.pt into the run, and cut the log back to it. Returns the log's lines and the seconds trained."""
    state = checkpoint.load_last(out / "last.pt", run.device)
    checkpoint.fill(run.model, state["model"], out / "last.pt")
    fused = run.optimizer.param_groups[0]["fused"]  # depends on the device, which may be another one now
    run.optimizer.load_state_dict(state["optimizer"])
    for group in run.optimizer.param_groups:
        group["fused"] = fused
    run.step.load_state_dict(state["step"])
    run.schedule.load_state_dict(state["schedule"])
    return logs.truncate(out / "log.jsonl", run.schedule.epoch), state["seconds"]


def title(run: Run) -> str:
    """E.g. "one-step atlas on mnist, small_cnn"."""
    return f"{method_name(run.config.method, run.config.steps)} on {run.config.dataset}, {run.config.model}"


def method_name(method: str, steps: int) -> str:
    if method == "plain":
        return "plain training"
    return f"{ {0: 'zero', 1: 'one'}.get(steps, steps) }-step {method}"
