"""What test_killed.py starts: a process that has imported everything and forks a training for each kill.

    python killed.py FOLDER NPZ

An AssertionError says what went wrong.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import torch._dynamo  # what a training imports on its way, here once for all
from folders import outcome

from atlas_fast import train
from atlas_fast.errors import run_cli
from atlas_fast.training import checkpoint, curves, files, lock, logs

torch.set_num_threads(1)
curves.draw = lambda *arguments: None
lock.PATIENCE = 0.0

RUN = ("--dataset", "npz", "--model", "tiny_net:make", "--device", "cpu", "--batch-size", "20", "--epsilon", "0.1",
       "--epochs", "2", "--ramp-epochs", "1", "--max-batches", "3", "--augment", "crop-flip", "--alpha", "0.01",
       "--beta", "0.5", "--ema", "0.9", "--on-overfitting", "rewind")
OFTEN = ("--save-minutes", "1e-9")  # after every step


def start(folder: Path, npz: str, *options: str, before=lambda: None) -> int:
    """Fork a process that trains in `folder`, on with it where a run lies there. Returns its id."""
    begun = (folder / "config.json").exists()
    pid = os.fork()
    if pid:
        return pid
    with open(folder.parent / f"{folder.name}.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        before()
        given = ("--resume",) if begun else (*RUN, "--data-dir", npz)
        run_cli(lambda: train.main([*given, *options, "--out", str(folder)]))
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code)
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def end(pid: int) -> tuple[int, float]:
    """(status as of subprocess, seconds of computing)."""
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def kill_after(pid: int, seconds: float) -> tuple[bool, float]:
    """SIGKILL after so many seconds of computing: (whether it was still at work then, seconds of computing)."""
    clock = (~pid << 3) | 2  # Linux: of the other process's computing time
    while time.clock_gettime(clock) < seconds and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    status, used = end(pid)
    return status == -signal.SIGKILL, used


def instants(folder: Path, npz: str, wanted: dict, seconds: float) -> None:
    """Killed at 20 random instants, five times each run, which then must end as the undisturbed one.

    seconds: of a whole run; less where one turns out to end sooner, since a machine may become faster meanwhile.
    """
    chosen, killed = random.Random(0), 0
    for i in range(40):
        attempt = folder / f"random {i}"
        for start_number in range(5):
            hit, used = kill_after(start(attempt, npz, *OFTEN), chosen.uniform(0.1, 0.8) * seconds)
            killed += hit
            if not hit and start_number == 0:
                seconds = min(seconds, used)
        same(attempt, npz, wanted)
        if killed >= 20:
            return
    raise AssertionError(f"only {killed} kills hit")


def writes(folder: Path, npz: str, wanted: dict) -> None:
    """Killed ahead of each system call that saves the last step, the last epoch (the best one) and the summary, at
    fsync with half the file."""
    base = folder / "base"
    assert end(start(base, npz, before=lambda: stop_at_step(5)))[0] == 128 + signal.SIGTERM
    for call in range(1, 100):
        attempt = folder / f"call {call}"
        shutil.copytree(base, attempt)
        status, _ = end(start(attempt, npz, *OFTEN, before=Counted(call).put))
        if status == 0:
            assert call > 16, f"only {call - 1} system calls"
            return
        assert status == -signal.SIGKILL, status
        same(attempt, npz, wanted)
    raise AssertionError("it never ended")


def full(folder: Path, npz: str) -> None:
    """No room for last.pt: everything saved stays, the sentence and status 2."""
    base = folder / "base"  # of `writes`
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    assert end(start(base, npz, *OFTEN, before=limit))[0] == 2
    said = (folder / "base.txt").read_text().splitlines()[-1]
    assert f"{base / 'last.pt'} could not be written (File too large), and what was saved before stays" in said, said
    assert before == {path.name: path.read_bytes() for path in base.iterdir()}
    assert end(start(base, npz))[0] == 0


def same(folder: Path, npz: str, wanted: dict) -> None:
    status, _ = end(start(folder, npz))
    output = folder.parent / f"{folder.name}.txt"
    assert status == 0, output.read_text()
    found = outcome(folder)
    assert found == wanted, f"{folder.name}: {[name for name in wanted if found[name] != wanted[name]]}"
    shutil.rmtree(folder)


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def stop_at_step(number: int) -> None:
    from atlas_fast.engine import TrainingStep

    step, done = TrainingStep.__call__, []

    def counted(self, x, y):
        done.append(1)
        if len(done) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, x, y)

    TrainingStep.__call__ = counted


class Counted:
    """The module os, which kills the process ahead of the n-th call that the saving makes of it."""

    CALLS = ("fsync", "replace", "link")

    def __init__(self, n: int):
        self.left = n

    def put(self) -> None:
        for module in (files, logs, checkpoint):
            module.os = self

    def __getattr__(self, name: str):
        call = getattr(os, name)
        if name not in self.CALLS:
            return call

        def counted(*arguments, **keywords):
            self.left -= 1
            if self.left == 0:
                if name == "fsync":
                    with contextlib.suppress(OSError):  # a folder
                        os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return counted


def main(folder: Path, npz: str) -> None:
    status, seconds = end(start(folder / "whole", npz))
    assert status == 0, (folder / "whole.txt").read_text()
    wanted = outcome(folder / "whole")
    instants(folder, npz, wanted, seconds)
    writes(folder, npz, wanted)
    full(folder, npz)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
