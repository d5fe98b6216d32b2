"""A run's folder, kept so that the process may be killed at any instant and lose little.

After an epoch come, in this order: the line of log.jsonl, last.pt, which holds the lines too, and best.safetensors,
whose checksum last.pt holds. Whatever is missing of them after a kill is made again from last.pt.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import torch

from ..errors import Interrupted, UserError
from . import checkpoint, logs
from .checkpoint import BEST, LAST, PREVIOUS
from .config import Config, differing
from .files import write_bytes
from .own_state import load_own_state, own_state
from .rewind import load_optimizer
from .setup import Run
from .stopping import Agreement, Stopping

MINUTES = 10.0  # between two checkpoints of a long epoch
LOG = "log.jsonl"
_MAY_BE_HALF = tuple(f"{name}.tmp" for name in (LAST, PREVIOUS, BEST, LOG, "config.json", "summary.json", "curves.png"))


class Saver:
    """Of several processes the first writes; `save`, `asks`, `inside` and `restore` are called by all of them.

    lines: of the log, with the first process; seconds: trained in all epochs that are over; began: perf_counter() at
    which the present epoch would have begun without interruptions; place: what the last checkpoint holds, in words.
    """

    def __init__(self, run: Run, out: Path, stopping: Stopping, minutes: float = MINUTES):
        self.run, self.out, self.stopping, self.minutes = run, out, stopping, minutes
        self.lines: list[dict] = []
        self.seconds, self.began, self.place = 0.0, 0.0, "the beginning"
        self._best: dict | None = None
        self._agreed = Agreement(run.ranks, run.device)
        self._stop: int | None = None
        self._saved = time.monotonic()

    def save(self, inside: dict | None = None) -> None:
        """Write last.pt. inside: how far the present epoch is, None between two epochs."""
        run = self.run
        state = {
            "config": asdict(run.config), "n_train": len(run.data.train_labels), "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(), "step": run.step.state_dict(),
            "schedule": run.schedule.state_dict(), "watch": run.watch.state_dict(),
            "rewinder": run.rewinder.state_dict(), "tally": run.tally.state_dict(), "seconds": self.seconds,
            "log": self.lines, "best": self._best, "inside": inside}
        if run.ranks.leads:
            checkpoint.save_last(self.out / LAST, state)
        self._saved, self.place = time.monotonic(), self._where(inside)

    def end_epoch(self, line: dict, best: bool) -> None:
        """Keep what an epoch has given. line: of the log; best: whether its weights are the best so far."""
        self.lines.append(line)
        self.seconds += line["seconds"]
        if not self.run.ranks.leads:
            return self.save()
        content = checkpoint.weights(self.run.network) if best else None
        if content is not None:
            self._best = {"epoch": line["epoch"], "checksum": checkpoint.checksum(content)}
        logs.append(self.out / LOG, line)
        self.save()
        if content is not None:
            write_bytes(self.out / BEST, content)

    def asks(self, last: bool) -> bool:
        """Whether to save after this step. last: of the epoch."""
        due = time.monotonic() - self._saved > 60 * self.minutes
        self._stop, due = self._agreed(self.stopping.asked, due, now=last)
        return due or self._stop is not None

    def inside(self, done: int, seconds: float | None = None) -> None:
        """Save after the epoch's step `done` (from 1; the tally has looked). seconds: that the steps took, None: until
        now. Interrupted: a signal asked for it; UserError: the weights are of no use."""
        check_weights(self.run, self.run.schedule.epoch + 1, done)
        seconds = time.perf_counter() - self.began if seconds is None else seconds
        self.save({"batches": done, "seconds": seconds, "tally": self.run.tally.inside(), "own": own_state(self.run)})
        if self._stop is not None:
            self._end()

    def enter(self, inside: dict) -> int:
        """Go on inside an epoch that has been begun (`Run.begin_epoch`, `Tally.start`). Returns the steps done."""
        self.run.tally.go_on(inside["tally"])
        load_own_state(self.run, inside["own"], inside["batches"])
        return inside["batches"]

    @contextlib.contextmanager
    def interruptible(self, done: int) -> Iterator[None]:
        """For the validation, which may take long, can be repeated and leaves nothing behind: a signal need not wait
        for its end, if there is one process. done: the epoch's steps."""
        seconds = time.perf_counter() - self.began
        try:
            with self.stopping.at_once():
                yield
        except Interrupted as error:
            self._stop = error.number
            self.inside(done, seconds)

    def stop_between_epochs(self) -> None:
        """Interrupted: a signal came after the epoch's last step."""
        self._stop, _ = self._agreed(self.stopping.asked, False, now=True)
        if self._stop is not None:
            self._end()

    def _end(self) -> None:
        assert self._stop is not None  # or nobody would end it
        raise Interrupted(f"stopped and saved at {self.place}; --resume --out {self.out} goes on from there",
                          self._stop)

    def _where(self, inside: dict | None) -> str:
        epoch = self.run.schedule.epoch
        if inside is not None:
            return f"batch {inside['batches']} of {len(self.run.batches)} of epoch {epoch + 1}"
        return f"the end of epoch {epoch}" if epoch else "the beginning"

    def restore(self) -> tuple[dict | None, list[str]]:
        """Load the last checkpoint into the run, and make log and best weights those that belong to it.

        Returns (how far the epoch is, or None between two, what to say). UserError: no checkpoint can be used.
        """
        run, said = self.run, list[str]()
        state = self._latest(said)
        try:
            self._fill(state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.out / LAST} does not fit the run in config.json ({type(error).__name__}: "
                            f"{error})") from error
        if run.ranks.leads:
            logs.write(self.out / LOG, self.lines)
        lost = torch.tensor(float(run.ranks.leads and not self._best_is_there(state)), device=run.device)
        if run.ranks.add(lost):
            said.append(self._without_best())
        inside = state.get("inside")
        self.place = self._where(inside)
        return inside, said

    def _latest(self, said: list[str]) -> dict:
        """The first process looks first, since it may put previous.pt in the place of last.pt."""
        state, run = None, self.run
        if run.ranks.leads:
            for name in _MAY_BE_HALF:
                (self.out / name).unlink(missing_ok=True)
            state, instead = checkpoint.load_latest(self.out, run.device)
            if instead:
                checkpoint.adopt_previous(self.out)
                said.append(instead)
        run.ranks.wait(run.device)
        return state or checkpoint.load_last(self.out / LAST, run.device)

    def _fill(self, state: dict) -> None:
        run, path = self.run, self.out / LAST
        _check_settings(state, run, path)
        checkpoint.fill(run.model, state["model"], path)
        load_optimizer(run.optimizer, state["optimizer"])
        run.step.load_state_dict(state["step"])
        run.schedule.load_state_dict(state["schedule"])
        if "watch" in state:  # the first checkpoints had none of the three
            run.watch.load_state_dict(state["watch"])
            run.tally.load_state_dict(state["tally"])
            run.rewinder.load_state_dict(state["rewinder"], run)
        self.seconds, self._best = state["seconds"], state.get("best")
        if "log" in state:
            self.lines = list(state["log"])
        elif run.ranks.leads:
            self.lines = [line for line in logs.read(self.out / LOG) if line["epoch"] <= run.schedule.epoch]

    def _best_is_there(self, state: dict) -> bool:
        """Whether best.safetensors is that of the checkpoint, or has become so: the process may have been killed
        before it was written."""
        path, schedule, best = self.out / BEST, self.run.schedule, state.get("best")
        content = path.read_bytes() if path.is_file() else b""
        if best is None:
            return "best" in state or schedule.best_epoch is None or checkpoint.readable(content)
        if checkpoint.checksum(content) == best["checksum"] or schedule.finished and self.run.keeps_last:
            return True
        if state["inside"] is not None or best["epoch"] != schedule.epoch:
            return False
        content = checkpoint.weights(self.run.network)
        write_bytes(path, content)
        self._best = {**best, "checksum": checkpoint.checksum(content)}  # another version may order the file otherwise
        return True

    def _without_best(self) -> str:
        path, schedule = self.out / BEST, self.run.schedule
        if schedule.finished:
            raise UserError(f"{path} is missing, damaged or of another epoch than the best, and the training is over; "
                            "put the file back, or begin again in another --out")
        schedule.forget_best()
        self._best = None
        return (f"{path} is missing, damaged or of another epoch than the best of this checkpoint; the best of the "
                "epochs to come takes its place")


def check_minutes(given: float | None) -> float:
    """--save-minutes. UserError: not above 0."""
    if given is not None and not 0 < given < float("inf"):
        raise UserError(f"--save-minutes must be a number above 0, not {given}")
    return MINUTES if given is None else given


def check_weights(run: Run, epoch: int, batch: int) -> None:
    """UserError: a weight is not finite, so that this network must be neither kept nor trained further."""
    named = list(run.model.named_parameters())
    finite = torch.stack([p.isfinite().all() for _, p in named]).tolist()
    if not all(finite):
        raise UserError(f"the weights are not finite after batch {batch} of epoch {epoch} (first "
                        f"{named[finite.index(False)][0]}): a finite gradient was too large for them; lower --lr or "
                        "--alpha, what was saved before stays")


def _check_settings(state: dict, run: Run, path: Path) -> None:
    """UserError: the checkpoint was trained with other settings than config.json says, or on other images."""
    if "config" not in state:
        return
    known = {field.name for field in fields(Config)}
    old = Config(**{**asdict(run.config), **{name: v for name, v in state["config"].items() if name in known}})
    if names := differing(old, run.config):
        pairs = ", ".join(f"{name} ({getattr(old, name)}, now {getattr(run.config, name)})" for name in names)
        raise UserError(f"{path} was trained with other settings than its config.json now holds: {pairs}")
    if state["n_train"] != (now := len(run.data.train_labels)):
        raise UserError(f"{path} was trained on {state['n_train']} images, and now there are {now}; --data-dir must "
                        "name the same data")
