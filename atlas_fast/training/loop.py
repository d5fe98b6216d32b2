"""The trainer: epochs of steps, a validation after each, checkpoints, and the end that the schedule decides."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ..errors import UserError
from . import checkpoint, curves, logs
from .progress import Progress
from .rewind import load_optimizer
from .setup import Run
from .validation import measure

DRAW_EVERY = 30.0  # seconds between two drawings of the curves; one takes about half a second


def train(run: Run, out: Path, resume: bool = False) -> None:
    """Train until the schedule ends it; leaves log.jsonl, last.pt, best.safetensors and curves.png in `out`.

    The folder exists and holds config.json. resume: go on from last.pt, on the same device with the same result as
    without the interruption (bit by bit on a CPU). Of several processes the first writes and prints. UserError: too
    many steps that are not finite, a process that is gone; what was saved stays.
    """
    config, schedule = run.config, run.schedule
    lines, seconds = restore(run, out) if resume else ([], 0.0)
    if not resume:
        save(run, out, seconds)
    per_epoch = len(run.batches) * config.batch_size
    progress = Progress(config.epochs * per_epoch, schedule.epoch * per_epoch, run.ranks.leads)
    drawn = time.perf_counter()
    try:
        while not schedule.finished:
            line, best = one_epoch(run, progress)
            seconds += line["seconds"]
            if best and run.ranks.leads:
                checkpoint.save_weights(out / "best.safetensors", run.network)
            said = overfitted(run, line, best)
            if run.ranks.leads:
                logs.append(out / "log.jsonl", line)
            save(run, out, seconds)
            lines.append(line)
            progress.line(line, config.epochs, best)
            if said:
                progress.write(said)
            if run.ranks.leads and (schedule.finished or time.perf_counter() - drawn > DRAW_EVERY):
                curves.draw(lines, out / "curves.png", title(run), best_epoch(run))
                drawn = time.perf_counter()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped in epoch {schedule.epoch + 1}; --resume --out {out} goes on from the end of "
                                f"epoch {schedule.epoch}") from None
    except torch.OutOfMemoryError as error:
        raise UserError(f"{run.device} ran out of memory in epoch {schedule.epoch + 1}; a smaller --batch-size needs "
                        "less") from error
    finally:
        progress.close()
    if schedule.best_epoch is None and run.watch.since is None and run.ranks.leads:  # the whole run was the ramp
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
    # BatchNorm's running statistics are each process's own until here; those of the first are validated and kept.
    run.ranks.follow_first([*run.model.buffers(), *run.network.buffers()])
    measured = measure(run.network, *run.data.val, run.attack, run.device, run.bf16, run.step.objective, run.ranks)
    eps = config.eps_at(schedule.ramp(number))
    line = {"epoch": number, "lr": lr, "eps": eps, **terms, **measured, "not_finite_steps": run.tally.bad}
    if config.has_adversary:
        line["overfitted"] = run.watch.update(line)
    # Selecting a plainly trained network by its robust accuracy (near 0) would select noise.
    accuracy = measured["clean_accuracy" if config.method == "plain" else "robust_accuracy"]
    best = schedule.update(accuracy, run.watch.since is None)
    # The best of the ramp is kept until an epoch after it counts: training may overfit before one does.
    best |= schedule.best is None and run.watch.best is not None and run.watch.best["epoch"] == number
    return {**line, "seconds": time.perf_counter() - started, "ms_per_batch": 1000 * trained / len(run.batches)}, best


def steps(run: Run, number: int, progress: Progress) -> dict[str, float]:
    """The epoch's steps. Returns the means of the loss and its terms."""
    count, tally = len(run.batches), run.tally
    run.model.train()
    run.begin_epoch(number)
    tally.start(number, count, run.step.skipped_on_device)
    for i, (x, y) in enumerate(run.batches.epoch(number - 1)):
        run.step.ramp = run.schedule.ramp(number - 1 + i / count)
        if tally.add(run.step(x, y), run.step.skipped_on_device):
            progress.write(tally.sentence)
        progress.step(run.config.batch_size)
    means, say = tally.means()
    if say:
        progress.write(tally.sentence)
    if not all(torch.stack([p.isfinite().all() for p in run.model.parameters()]).tolist()):
        raise UserError(f"the weights are not finite in epoch {number}: a gradient was not; lower --lr or --alpha")
    return means


def overfitted(run: Run, line: dict, best: bool) -> str:
    """Do what --on-overfitting says where overfitting has just set in, and note it in the epoch's line.

    Returns what to say, "" where there is nothing. best: the epoch's weights are those of best.safetensors now.
    """
    wanted, watch, rewinder = run.config.on_overfitting, run.watch, run.rewinder
    if best and wanted == "rewind":
        rewinder.remember(run)
    if watch.since != line["epoch"]:
        return ""
    said = watch.sentence(line)
    if wanted == "rewind" and rewinder.possible and not run.schedule.finished:
        change = line["rewind"] = rewinder.rewind(run)
        watch.healed()
        return f"{said}; back to epoch {change['to_epoch']}, alpha is now {change['alpha']:.3g}"
    if wanted == "continue":
        return f"{said}; training goes on (--on-overfitting continue), best.safetensors keeps epoch {best_epoch(run)}"
    run.schedule.stopped = True
    done = len(rewinder.changes)
    why = f" after {done} rewind{'s' if done > 1 else ''}" if done else ""
    return f"{said}; training ends{why} with the weights of epoch {best_epoch(run)}"


def best_epoch(run: Run) -> int:
    """The epoch of best.safetensors at the end: where none counts after the ramp, the last one, unless overfitted."""
    if run.schedule.best_epoch is not None:
        return run.schedule.best_epoch
    return run.schedule.epoch if run.watch.since is None else run.watch.best["epoch"]


def save(run: Run, out: Path, seconds: float) -> None:
    state = {
        "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "step": run.step.state_dict(),
        "schedule": run.schedule.state_dict(), "watch": run.watch.state_dict(), "rewinder": run.rewinder.state_dict(),
        "tally": run.tally.state_dict(), "seconds": seconds}
    if run.ranks.leads:
        checkpoint.save_last(out / "last.pt", state)


def restore(run: Run, out: Path) -> tuple[list[dict], float]:
    """Load last.pt into the run, and cut the log back to it. Returns the log's lines and the seconds trained."""
    state = checkpoint.load_last(out / "last.pt", run.device)
    checkpoint.fill(run.model, state["model"], out / "last.pt")
    load_optimizer(run.optimizer, state["optimizer"])
    run.step.load_state_dict(state["step"])
    run.schedule.load_state_dict(state["schedule"])
    if "watch" in state:  # a checkpoint of an earlier version has none of the three
        run.watch.load_state_dict(state["watch"])
        run.tally.load_state_dict(state["tally"])
        run.rewinder.load_state_dict(state["rewinder"], run)
    lines = logs.truncate(out / "log.jsonl", run.schedule.epoch) if run.ranks.leads else []
    return lines, state["seconds"]


def title(run: Run) -> str:
    """E.g. "one-step atlas on mnist, small_cnn"."""
    return f"{method_name(run.config.method, run.config.steps)} on {run.config.dataset}, {run.config.model}"


def method_name(method: str, steps: int) -> str:
    if method == "plain":
        return "plain training"
    return f"{ {0: 'zero', 1: 'one'}.get(steps, steps) }-step {method}"
