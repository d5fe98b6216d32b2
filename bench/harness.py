"""Timing variants against each other: interleaved in one process, medians, the machine in the record."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import atlas_fast
from atlas_fast import _extension

FOLDER = Path(__file__).resolve().parent
RESULTS = Path(os.environ.get("ATLAS_FAST_BENCH_RESULTS") or FOLDER / "results")
MIB = 2**20


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


def warm_up(function: Callable, device: str) -> float:
    """Seconds of the first call: compilation, tuning, loading. On CUDA six more follow: a step is captured as a graph
    after four (`engine/capture.py`)."""
    began = time.perf_counter()
    function()
    synchronise(device)
    seconds = time.perf_counter() - began
    for _ in range(6 if device == "cuda" else 0):
        function()
    synchronise(device)
    return seconds


def interleaved(variants: dict[str, Callable], device: str = "cpu", rounds: int = 15, target_ms: float = 20.0) -> dict:
    """{name: median milliseconds} over `rounds` rounds that run every variant in turn; a first round warms up."""
    calls, times = {}, {name: [] for name in variants}
    for name, function in variants.items():
        warm_up(function, device)
        calls[name] = max(1, min(1000, int(target_ms / max(once(function, 1, device), 1e-3))))
    for turn in range(rounds + 1):
        for name, function in variants.items():
            milliseconds = once(function, calls[name], device)
            if turn:
                times[name].append(milliseconds)
    return {name: statistics.median(values) for name, values in times.items()}


def per_call_ms(calls: Sequence[Callable], device: str, rounds: int = 7, target_ms: float = 5.0) -> float:
    """Median milliseconds of one of `calls`, run in turn (rotating buffers: data larger than the caches).

    On CUDA they are captured as one graph, so that the time is the device's and not that of Python's launches.
    """
    def run():
        for call in calls:
            call()

    warm_up(run, device)
    function = captured(run) if device == "cuda" else run
    repeats = max(1, min(500, int(target_ms / max(once(function, 1, device), 1e-3))))
    return statistics.median(once(function, repeats, device) for _ in range(rounds)) / len(calls)


def captured(function: Callable) -> Callable:
    """The replay of a CUDA graph of one call. Warm-up and capture share a side stream: cuDNN and autograd need it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        function()
    return graph.replay


class Memory:
    """Device memory that a variant takes, from here on: made before the variant, asked after its warm-up. MiB.

    The peak of one more call's allocations, or what the allocator keeps once idle blocks are returned, whichever is
    more: a captured graph allocates nothing when it runs, but keeps its pool. On a CPU: None.
    """

    def __init__(self, device: str):
        self.device = device
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            self.allocated, self.reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    def peak(self, function: Callable) -> float | None:
        if self.device != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        kept = torch.cuda.memory_reserved() - self.reserved
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return max(kept, torch.cuda.max_memory_allocated() - self.allocated) / MIB


def processor() -> str:
    """The CPU's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    # From metadata: importing Triton would fix its interpreter setting for the process.
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The repository's, with "-dirty" where more than records differs from it; "" without git or its folder."""
    git = ["git", "-C", str(FOLDER.parent)]
    try:
        name = subprocess.run([*git, "describe", "--always"], capture_output=True, text=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results"],
                                 capture_output=True, text=True).stdout.strip()
    except OSError:  # git is not installed
        return ""
    return f"{name}-dirty" if name and changed else name


def environment(device: str) -> dict:
    """What a record must say about where it was measured. $ATLAS_FAST_COMMIT names the commit of a copy without git."""
    found = {"date": datetime.date.today().isoformat(),
             "commit": commit() or os.environ.get("ATLAS_FAST_COMMIT"), "processor": processor(),
             "threads": torch.get_num_threads(),
             "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
             "python": platform.python_version(), "torch": torch.__version__, "triton": _version("triton"),
             "atlas_fast": atlas_fast.__version__, "isa": _extension.build_info().get("isa"),
             "kernels": _extension.WHY}
    if device == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
                  "cudnn_tf32": torch.backends.cudnn.allow_tf32}
    return found


def slug(device: str) -> str:
    """The device's part of a record's file name: "cpu", or the GPU's name, e.g. "nvidia-h200"."""
    return "cpu" if device != "cuda" else re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def load(path: Path) -> dict:
    """A record {"environments": {id: environment}, "rows": [{..., "environment": id}]}; empty where there is none.

    Also reads {"environment", "rows"}, one environment for all rows.
    """
    if not path.is_file():
        return {"environments": {}, "rows": []}
    record = json.loads(path.read_text())
    if "environment" in record:
        name = _identity(record["environment"])
        rows = [{**row, "environment": name} for row in record["rows"]]
        record = {"environments": {name: record["environment"]}, "rows": rows}
    return record


def save(name: str, device: str, rows: list[dict], key: Sequence[str] = ("operation", "size")) -> Path:
    """Put the rows into results/<name>-<device>.json: they replace those with the same `key`, all others stay."""
    path = RESULTS / f"{name}-{slug(device)}.json"
    record, here = load(path), environment(device)
    mark = _identity(here)
    merged = {tuple(row.get(k) for k in key): row for row in record["rows"]}
    merged |= {tuple(row.get(k) for k in key): {**row, "environment": mark} for row in rows}
    used = {row["environment"] for row in merged.values()}
    known = {**record["environments"], mark: here}
    write_json(path, {"environments": {i: known[i] for i in known if i in used}, "rows": list(merged.values())})
    return path


def _identity(environment: dict) -> str:
    return hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:8]


def write_json(path: Path, value) -> None:
    """Whole or not at all: a reader, or a kill, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


def markdown(rows: list[dict], columns: list[str]) -> str:
    """A Markdown table of some columns; floats with three significant digits, nothing for None."""
    def cell(value):
        if isinstance(value, float):
            return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return "" if value is None else str(value)
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(cell(row.get(c, "")) for c in columns) + " |" for row in rows])


def choose_device(name: str) -> str:
    """"auto", "cpu" or "cuda" -> "cpu" or "cuda"; SystemExit(2) with one sentence where CUDA is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: torch sees no GPU here; use --device cpu")
        raise SystemExit(2)
    return name
