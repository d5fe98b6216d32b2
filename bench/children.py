"""Running a command that may hang: a time limit, and nothing of it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def run(command: list[str], log: Path, cap: float, tick: Callable[[], None] = lambda: None, env: dict | None = None,
        cwd: Path | None = None) -> str:
    """Run until it ends or `cap` seconds are over; stdout and stderr go to `log`. `tick` is called while it runs.

    Returns "done", "exit status N" or "stopped after N s". However this ends, Ctrl-C included, the command and all
    processes that it started are gone.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   start_new_session=True, env=env, cwd=cwd or Path(__file__).resolve().parent.parent)
    deadline = time.monotonic() + cap
    try:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            tick()
        stopped = process.poll() is None
    finally:
        end(process)
    if stopped:
        return f"stopped after {cap:.0f} s"
    return "done" if process.returncode == 0 else f"exit status {process.returncode}"


def end(process: subprocess.Popen) -> None:
    """Kill the process, its session, and descendants that opened sessions of their own; wait for it."""
    found = [process.pid, *descendants(process.pid)]
    for kill, number in ((os.killpg, process.pid), *((os.kill, n) for n in found[1:])):
        try:
            kill(number, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:  # in the driver, uninterruptibly; it ends when the driver lets it go
        pass


def descendants(pid: int) -> list[int]:
    """Processes that this one started, directly or not (Linux; elsewhere only the session is known)."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # ended meanwhile
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def last_line(log: Path) -> str:
    """The log's last line that says something."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
