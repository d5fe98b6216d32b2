"""Timing variants against each other: interleaved in one process, medians, the machine in the record."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

import atlas_fast
from atlas_fast import _extension

RESULTS = Path(__file__).parent / "results"


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def once(function: Callable, calls: int, device: str) -> float:
    """Milliseconds per call of `calls` back-to-back calls."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) * 1e3 / calls


def interleaved(variants: dict[str, Callable], device: str = "cpu", rounds: int = 15, target_ms: float = 20.0) -> dict:
    """{name: median milliseconds} over `rounds` rounds that run every variant in turn; a first round warms up."""
    calls, times = {}, {name: [] for name in variants}
    for name, function in variants.items():
        function()
        synchronise(device)
        calls[name] = max(1, min(1000, int(target_ms / max(once(function, 1, device), 1e-3))))
    for turn in range(rounds + 1):
        for name, function in variants.items():
            milliseconds = once(function, calls[name], device)
            if turn:
                times[name].append(milliseconds)
    return {name: statistics.median(values) for name, values in times.items()}


def processor() -> str:
    """The CPU's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(device: str) -> dict:
    """What a record must say about where it was measured."""
    root = Path(__file__).resolve().parent.parent
    commit = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip() or None,
            "processor": processor(), "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "python": platform.python_version(), "torch": torch.__version__, "atlas_fast": atlas_fast.__version__,
            "isa": _extension.build_info().get("isa"), "kernels": _extension.WHY}


def save(name: str, device: str, rows: list[dict]) -> Path:
    """Write bench/results/<name>-<device>.json."""
    path = RESULTS / f"{name}-{device}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": environment(device), "rows": rows}, indent=1) + "\n")
    return path


def markdown(rows: list[dict], columns: list[str]) -> str:
    """A Markdown table of some columns; floats with three significant digits."""
    def cell(value):
        return f"{value:.3g}" if isinstance(value, float) else str(value)
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(cell(row.get(c, "")) for c in columns) + " |" for row in rows])
