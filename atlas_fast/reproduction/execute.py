"""Runs one after another or several at once, each command in a process of its own.

The work is done by processes, so one loop that watches them is all the scheduling there is: concurrent.futures would
add a pool of threads whose only work is to wait, and Ctrl-C would not reach a child from there.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..training.files import make_folder
from .runs import Run, Stage, next_stage, tidy

OUTPUT = "output.txt"  # in the run's folder: what its commands printed
_POLL = 0.1  # seconds
_GRACE = 20.0  # seconds that an interrupted child gets to end by itself


@dataclass
class Child:
    """A command at work. The lock is inherited by it, so that the folder stays taken while it lives, whatever becomes
    of this process."""

    run: Run
    stage: Stage
    device: str | None
    lock: IO
    process: subprocess.Popen


class Failed(Exception):
    """A run that cannot go on; the message is the last line that it printed."""


def execute(runs: Sequence[Run], jobs: int, devices: Sequence[str | None], progress) -> dict[Run, str]:
    """Bring every run to its end, at most `jobs` commands at a time, on the devices in turn.

    progress: has started(child), ended(run, stage), failed(run, why), waiting(run) and look(children).
    Returns {run that failed: its last line}. A run that another process is at is waited for. KeyboardInterrupt: the
    children are interrupted as well and have ended; every finished epoch and batch of images is kept.
    """
    queue, children, failed = list(runs), list[Child](), dict[Run, str]()
    free, environment = [devices[i % len(devices)] for i in range(jobs)], _environment(jobs)
    try:
        while queue or children:
            for run in list(queue) if free else ():
                try:
                    child = _start(run, free[0], failed, environment)
                except Failed as error:
                    failed[run] = str(error)
                    progress.failed(run, str(error))
                    queue.remove(run)
                    continue
                if child == "finished":
                    queue.remove(run)
                elif child == "busy":
                    progress.waiting(run)
                elif isinstance(child, Child):
                    queue.remove(run)
                    children.append(child)
                    free.pop(0)
                    progress.started(child)
                    if not free:
                        break
            for child in [child for child in children if child.process.poll() is not None]:
                children.remove(child)
                free.insert(0, child.device)
                why = _end(child)
                if why:
                    failed[child.run] = why
                    progress.failed(child.run, why)
                else:
                    progress.ended(child.run, child.stage)
                    queue.insert(0, child.run)
            progress.look(children)
            if queue or children:
                time.sleep(_POLL)
    finally:
        _stop(children)
    return failed


def _start(run: Run, device: str | None, failed: dict[Run, str], environment: dict) -> Child | str | None:
    """The run's next command, started; "finished", "busy" (another process is at it), or None: it has to wait for
    the run whose network it needs. Failed: that one has failed."""
    stage = next_stage(run)
    if stage is None:
        return "finished"
    if stage.needs is not None and not (stage.needs / "summary.json").exists():
        if any(other.folder == stage.needs for other in failed):
            raise Failed(f"its surrogate {stage.needs} failed")
        return None
    make_folder(run.folder)
    lock = open(run.folder / ".lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return "busy"
    stage = next_stage(run)  # as it is now that the folder is ours
    if stage is None:
        lock.close()
        return "finished"
    tidy(run)
    command = [*stage.command, *(("--device", device) if device else ())]
    with open(run.folder / OUTPUT, "a") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        process = launch(command, output, lock, environment)
    return Child(run, stage, device, lock, process)


def launch(command: Sequence[str], output: IO, lock: IO, environment: dict[str, str]) -> subprocess.Popen:
    """In a session of its own, so that Ctrl-C reaches it once, from `_stop`."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                            pass_fds=(lock.fileno(),), env=environment, start_new_session=True)


def _environment(jobs: int) -> dict[str, str]:
    """The children import this very atlas_fast, and share the cores."""
    environment, package = dict(os.environ), Path(__file__).resolve().parents[2]
    if package != Path(sysconfig.get_paths()["purelib"]).resolve():  # not installed: a checkout
        environment["PYTHONPATH"] = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment


def _end(child: Child) -> str | None:
    """Why the command has failed, None where it has not."""
    child.lock.close()
    status = child.process.returncode
    if status == 0:
        after = next_stage(child.run)
        if after is None or after.name != child.stage.name:
            return None
        return f"the {child.stage.name} ended without its results"
    last = _last_line(child.run.folder / OUTPUT)
    if status < 0:
        return f"ended by {signal.Signals(-status).name}" + (f" after: {last}" if last else "")
    return last or f"ended with status {status}"


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return "" if last.startswith("$ ") else last.removeprefix("atlas_fast: error: ")


def _stop(children: Sequence[Child]) -> None:
    """Interrupt what still runs, and wait for its end."""
    for child in children:
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _GRACE
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        child.lock.close()
