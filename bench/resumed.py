"""A training that is killed and resumed, against two that nobody disturbs: what the interruption changes.

    python -m bench.resumed --out DIR [--device auto]

The second undisturbed one is the measure: on a GPU two runs differ too, since cuDNN adds in no fixed order. On a CPU
all three are the same bit by bit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from bench import harness

RUN = ("--dataset", "digits", "--model", "wrn-10-1", "--method", "atlas", "--steps", "1", "--epochs", "4",
       "--ramp-epochs", "2", "--batch-size", "64", "--augment", "crop-flip")
TIMES = ("seconds", "ms_per_batch")


def train(*options: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "atlas_fast.train", *options], cwd=harness.FOLDER.parent)


def whole(out: Path, device: str) -> None:
    _done(train(*RUN, "--device", device, "--out", str(out)))


def killed(out: Path, device: str) -> int:
    """SIGKILL once it is within its third epoch, then resume. Returns how many epochs were done when it died."""
    process, log = train(*RUN, "--device", device, "--save-minutes", "0.001", "--out", str(out)), out / "log.jsonl"
    while process.poll() is None and len(_lines(log)) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(_lines(log))
    _done(train("--device", device, "--out", str(out), "--resume"))
    return done


def _done(process: subprocess.Popen) -> None:
    if status := process.wait():
        raise SystemExit(f"the training ended with status {status}")


def _lines(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def difference(one: Path, other: Path) -> dict:
    """{"weights": ||a - b|| / ||a|| of the best weights, "loss": largest relative difference of an epoch's}."""
    a, b = (safetensors.torch.load_file(out / "best.safetensors") for out in (one, other))
    flat = [torch.cat([weights[name].double().flatten() for name in sorted(a)]) for weights in (a, b)]
    logs = [[{k: v for k, v in line.items() if k not in TIMES} for line in _lines(out / "log.jsonl")]
            for out in (one, other)]
    return {"weights": float((flat[0] - flat[1]).norm() / flat[0].norm()),
            "loss": max(abs(p["loss"] - q["loss"]) / abs(p["loss"]) for p, q in zip(*logs, strict=True)),
            "logs equal": logs[0] == logs[1]}


def compare(folder: Path, device: str, record: Callable[[dict], None]) -> dict:
    """{"capture reason", "undisturbed", "killed", "killed after epochs"}; `record` gets it as it grows."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    one, again, other = (folder / name for name in ("one", "again", "killed"))
    whole(one, device)
    found: dict = {"capture reason": json.loads((one / "config.json").read_text())["capture_reason"]}
    found["killed after epochs"] = killed(other, device)
    found["killed"] = difference(one, other)
    record(found)
    whole(again, device)
    found["undisturbed"] = difference(one, again)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    device = harness.choose_device(args.device)
    print(json.dumps(compare(args.out.resolve(), device, lambda found: None), indent=1))


if __name__ == "__main__":
    main()
