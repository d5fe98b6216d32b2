"""Everything that a GPU has to answer, in one command and at most nine minutes.

    python -m bench.gpu --out DIR [--only SECTION ...] [--budget 540] [--rehearse]

Each section runs in a process of its own under a time limit. DIR/summary.json holds what has been measured so far and
is rewritten while sections run, so that a run that is killed leaves what it did; DIR/<section>.log is a section's
output, DIR/results the records in the form of bench/results (copy them there, then `python -m bench.report`). At the
end: a line for each target. A section that ends early leaves its time to the others. Exit status 0 when every section
ran, 1 when one did not, 2 without a CUDA device. --rehearse runs the sections on the CPU with a tiny network, to try
the sections themselves: nothing that it prints is a result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench import children, harness, targets

LAST_LINES = 30
SITE = "site"  # folder of DIR where packages may lie that the sections see
REHEARSAL = ("--device", "cpu", "--model", "wrn-10-1", "--batch-size", "2")


@dataclasses.dataclass(frozen=True)
class Section:
    """name; cap: most seconds; keep: seconds that earlier sections leave to this one; command: None for the usual."""

    name: str
    cap: float
    keep: float
    command: tuple[str, ...] | None = None


SECTIONS = (  # in the order of what later sections, and the next decision, need first
    Section("build", 150, 0), Section("smoke", 90, 10), Section("agreement", 60, 10), Section("ceilings", 25, 8),
    Section("reference", 60, 20), Section("steps", 160, 80), Section("convolutions", 110, 45),
    Section("compile", 150, 70), Section("epoch", 60, 25), Section("norm", 40, 15), Section("weight_gradient", 30, 10),
    # What a further call is for (--only tests sanitizer plans resume); in the first one they get what is left.
    Section("tests", 240, 0), Section("sanitizer", 150, 0), Section("plans", 240, 0), Section("resume", 120, 0),
)


class Summary:
    """DIR/summary.json, always whole."""

    def __init__(self, out: Path, sections, budget: float):
        self.path, self.out, self.began, self.read = out / "summary.json", out, time.monotonic(), {}
        self.value = {"started": time.strftime("%Y-%m-%d %H:%M:%S"), "budget s": budget, "elapsed s": 0.0,
                      "machine": _machine(), "sections": {s.name: {"end": "not started"} for s in sections}}
        self.write()

    def update(self, name: str, **values) -> None:
        self.value["sections"][name].update(values)
        self.write()

    def collect(self, name: str) -> None:
        """Take over what the section's process has recorded, if that is new."""
        path = self.out / f"{name}.json"
        try:
            changed = path.stat().st_mtime_ns
            if changed != self.read.get(name):
                self.read[name] = changed
                self.update(name, found=json.loads(path.read_text()))
        except FileNotFoundError:
            pass

    def write(self) -> None:
        self.value["elapsed s"] = round(time.monotonic() - self.began, 1)
        harness.write_json(self.path, self.value)


def run_sections(sections, out: Path, budget: float, options: tuple[str, ...] = ()) -> Summary:
    """Run them one after the other within `budget` seconds; whatever a section does, the next one starts.

    options: for the usual command.
    """
    out.mkdir(parents=True, exist_ok=True)
    for section in sections:
        (out / f"{section.name}.json").unlink(missing_ok=True)
    summary = Summary(out, sections, budget)
    path = os.pathsep.join(filter(None, (str(out / SITE), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "ATLAS_FAST_BENCH_RESULTS": str(out / "results"), "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
    for i, section in enumerate(sections):
        left = budget - (time.monotonic() - summary.began) - sum(s.keep for s in sections[i + 1:])
        allowed = min(section.cap, left)
        if allowed < 1:
            summary.update(section.name, end="not started: the time was used up")
            continue
        _run(section, out, allowed, summary, env, options)
    return summary


def _run(section: Section, out: Path, allowed: float, summary: Summary, env: dict, options) -> None:
    command = section.command or (sys.executable, "-m", "bench.sections", section.name, "--out", str(out),
                                  "--seconds", f"{allowed:.0f}", *options)
    log, began = out / f"{section.name}.log", time.monotonic()
    summary.update(section.name, end="running", **{"allowed s": round(allowed, 1)})
    try:
        end = children.run(list(command), log, allowed, lambda: summary.collect(section.name), env)
    except OSError as error:
        end = f"did not start: {error}"
    summary.collect(section.name)
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:] if log.is_file() else []
    summary.update(section.name, end=end, seconds=round(time.monotonic() - began, 1), log=lines)
    print(f"{section.name}: {end}, {time.monotonic() - began:.0f} s", flush=True)


def _machine() -> str | None:
    """Name, driver, clocks, power and temperature as nvidia-smi tells them; nothing is changed."""
    query = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    try:
        told = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True,
                              text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[s.name for s in SECTIONS], metavar="SECTION")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args(arguments)
    sections = [s for s in SECTIONS if not args.only or s.name in args.only]
    out = args.out.resolve()
    if not (args.rehearse or torch.cuda.is_available()):
        summary = Summary(out, sections, args.budget)
        for section in sections:
            summary.update(section.name, end="no CUDA device")
        print("no CUDA device: torch sees no GPU here, so nothing was measured")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `children.run` ends what it started
    summary = run_sections(sections, out, args.budget, REHEARSAL if args.rehearse else ())
    if args.rehearse:
        print("a rehearsal on the CPU: no results")
    else:
        summary.value["targets"] = targets.verdicts(summary.value)
        summary.write()
        print("\n" + harness.markdown(summary.value["targets"], ["target", "measured", "verdict"]))
    print(f"written to {out}")
    return 0 if all(s["end"] == "done" for s in summary.value["sections"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
