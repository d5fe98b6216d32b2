"""The trainer: epochs of steps, a validation after each, checkpoints, and the end that the schedule decides."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import torch

from ..errors import Interrupted, UserError
from . import checkpoint, curves
from .files import write_bytes
from .progress import Progress
from .saving import MINUTES, Saver, check_weights
from .setup import Run
from .stopping import Stopping
from .tensorboard import Events, Silent
from .validation import measure

DRAW_EVERY = 30.0  # seconds between two drawings of the curves; one takes about half a second


def train(run: Run, out: Path, resume: bool = False, minutes: float = MINUTES,
          events: Events | Silent | None = None) -> None:
    """Train until the schedule ends it; leaves log.jsonl, last.pt, best.safetensors and curves.png in `out`.

    The folder exists and holds config.json. resume: go on from last.pt, on the same device with the same result as
    without the interruption (bit by bit on a CPU). minutes: at most so long between two checkpoints. Of several
    processes the first writes and prints. Interrupted: SIGINT or SIGTERM, saved after the step. UserError: too many
    steps that are not finite, a process that is gone, a full disk; what was saved stays. events: gets each line of the
    log too.
    """
    schedule = run.schedule
    with Stopping(run.ranks.size == 1) as stopping:
        saver = Saver(run, out, stopping, minutes)
        inside, said = saver.restore() if resume else (None, [])
        if not resume:
            saver.save()
        events = events or Silent()
        events.begin(saver.lines)
        per_epoch, done = len(run.batches) * run.config.batch_size, inside["batches"] if inside else 0
        progress = Progress(run.config.epochs * per_epoch, schedule.epoch * per_epoch + done * run.config.batch_size,
                            run.ranks.leads)
        try:
            for sentence in said:
                progress.write(sentence)
            epochs(run, saver, progress, events, inside)
        except KeyboardInterrupt as error:
            if str(error):
                raise
            raise Interrupted(f"stopped in epoch {schedule.epoch + 1}; --resume --out {out} goes on from {saver.place}",
                              getattr(error, "number", signal.SIGINT)) from None
        except torch.OutOfMemoryError as error:
            raise UserError(f"{run.device} ran out of memory in epoch {schedule.epoch + 1}; --accumulate N, "
                            "--checkpoint-activations or a smaller --batch-size needs less") from error
        finally:
            progress.close()
        if run.keeps_last and run.ranks.leads:  # the whole run was the ramp
            write_bytes(out / checkpoint.BEST, checkpoint.weights(run.network))


def epochs(run: Run, saver: Saver, progress: Progress, events: Events | Silent, inside: dict | None) -> None:
    """All that are left; inside: how far the first of them is."""
    drawn = time.perf_counter()
    while not run.schedule.finished:
        line, best = one_epoch(run, progress, saver, inside)
        inside = None
        said = overfitted(run, line, best)
        events.add(line)
        saver.end_epoch(line, best)
        progress.line(line, run.config.epochs, best)
        if said:
            progress.write(said)
        if run.ranks.leads and (run.schedule.finished or time.perf_counter() - drawn > DRAW_EVERY):
            curves.draw(saver.lines, saver.out / "curves.png", title(run), best_epoch(run))
            drawn = time.perf_counter()
        saver.stop_between_epochs()


def one_epoch(run: Run, progress: Progress, saver: Saver | None = None,
              inside: dict | None = None) -> tuple[dict, bool]:
    """Train for an epoch and validate. Returns its line of the log, and whether it is the best so far.

    saver: saves within the epoch and ends it where it must; inside: its part that an earlier process has done."""
    config, schedule = run.config, run.schedule
    number, lr = schedule.epoch + 1, schedule.lr
    progress.epoch(number, config.epochs)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    started = time.perf_counter() - (inside["seconds"] if inside else 0.0)
    if saver is not None:
        saver.began = started
    terms = steps(run, number, progress, saver, inside)
    trained = time.perf_counter() - started
    progress.doing("validating")
    # Without --sync-bn each process has running statistics of its own; those of the first are validated and kept.
    run.ranks.follow_first([*run.model.buffers(), *run.network.buffers()])
    assert run.data.val is not None  # split off when the data set was loaded
    images, labels = run.data.val
    with contextlib.nullcontext() if saver is None else saver.interruptible(len(run.batches)):
        measured = measure(run.network, images, labels, run.attack, run.device, run.bf16, run.step.objective, run.ranks)
    eps = config.eps_at(schedule.ramp(number))
    line = {"epoch": number, "lr": lr, "eps": eps, **terms, **measured, "not_finite_steps": run.tally.bad,
            **run.scaling}
    if config.has_adversary:
        line["overfitted"] = run.watch.update(line)
    # Selecting a plainly trained network by its robust accuracy (near 0) would select noise.
    accuracy = measured["clean_accuracy" if config.method == "plain" else "robust_accuracy"]
    best = schedule.update(accuracy, run.watch.since is None)
    # The best of the ramp is kept until an epoch after it counts: training may overfit before one does.
    best |= schedule.best is None and run.watch.best is not None and run.watch.best["epoch"] == number
    return {**line, "seconds": time.perf_counter() - started, "ms_per_batch": 1000 * trained / len(run.batches)}, best


def steps(run: Run, number: int, progress: Progress, saver: Saver | None = None,
          inside: dict | None = None) -> dict[str, float]:
    """The epoch's steps; saver and inside as in `one_epoch`. Returns the means of the loss and its terms."""
    count, tally = len(run.batches), run.tally
    run.model.train()
    run.begin_epoch(number)
    tally.start(number, count, run.step.skipped_on_device)
    first = 0
    if inside:
        assert saver is not None  # which knows how far it is
        first = saver.enter(inside)
    for i, (x, y) in enumerate(run.batches.epoch(number - 1, first), first):
        run.step.ramp = run.schedule.ramp(number - 1 + i / count)
        say = tally.add(run.step(x, y), run.step.skipped_on_device)
        save = saver is not None and saver.asks(last=i + 1 == count)
        if save:
            say |= tally.look()
        if say:
            progress.write(tally.sentence)
        if saver is not None and save:
            saver.inside(i + 1)
        progress.step(run.config.batch_size)
    means, say = tally.means()
    if say:
        progress.write(tally.sentence)
    check_weights(run, number, count)
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
    if run.keeps_last:
        return run.schedule.epoch
    assert run.watch.best is not None  # an epoch before the one that overfitted
    return run.watch.best["epoch"]


def title(run: Run) -> str:
    """E.g. "one-step atlas on mnist, small_cnn"."""
    return f"{method_name(run.config.method, run.config.steps)} on {run.config.dataset}, {run.config.model}"


def method_name(method: str, steps: int) -> str:
    if method == "plain":
        return "plain training"
    return f"{ {0: 'zero', 1: 'one'}.get(steps, steps) }-step {method}"
