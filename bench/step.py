"""A training step: TrainingStep in all its ways against plain PyTorch and torch.compile, interleaved in one process.

    python -m bench.step [--methods atlas adv ...] [--models wrn-28-8 ...] [--batch-sizes 64 ...] [--device auto]
                         [--variants "sweeps*" ...] [--rounds 9] [--threads N] [--compile-cap SECONDS]

Methods: rows of the paper's table; atlas-10 is ten-step PGD. Variants: patterns of names ("PyTorch float32" is always
there, as the ratio's base). Columns: ms per batch; images/s; ratio: times as fast as PyTorch float32; TFLOP/s: what the
step needs (`bench.work`) over its time; of floor: the least time (`bench.roofline`) over its time; peak MiB on CUDA.
torch.compile runs in a process of its own, with its own reference, and is stopped after --compile-cap seconds
(default: 300 on CUDA, not at all on a CPU, where compiling takes minutes).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import sys
import tempfile
from pathlib import Path

import torch

from atlas_fast.engine.checkpoints import blocks
from bench import children, harness, roofline, work
from bench.step_variants import REFERENCE, build, remark, variants
from bench.workload import Workload, batch, network, workload

KEY = ("model", "method", "batch", "variant")
COLUMNS = [*KEY, "ms", "images/s", "ratio", "TFLOP/s", "of floor", "peak MiB", "note"]


def chosen(device: str, patterns: list[str] | None) -> list:
    """The variants whose name matches one of the patterns, and the reference."""
    patterns = patterns or (["*"] if device == "cuda" else ["*float32*"])
    return [v for v in variants(device)
            if v.name == REFERENCE or any(fnmatch.fnmatch(v.name, pattern) for pattern in patterns)]


def measure(load: Workload, model_name: str, size: int, device: str, selected, rounds: int, target_ms: float) -> dict:
    """{variant's name: {"ms", "peak MiB", "first call s", "note"}}; a variant that fails has only a note."""
    model, (x, y) = network(model_name, device), batch(model_name, size, device)
    found, calls, steps = {}, {}, {}
    for variant in selected:
        if variant.checkpoints and variant.engine == "autograd" and not blocks(model):
            continue
        memory = harness.Memory(device)
        try:
            call, step = build(variant, load, model, x, y)
            seconds = harness.warm_up(call, device)
            if not math.isfinite(float(call())):
                raise ArithmeticError("the loss is not finite")
        except Exception as error:  # one variant that cannot run must not cost the others their figures
            reason = (str(error).strip().splitlines() or [""])[0]
            found[variant.name] = {"note": f"{type(error).__name__}: {reason}"[:300]}
            continue
        calls[variant.name], steps[variant.name] = call, (variant, step)
        found[variant.name] = {"first call s": seconds, "peak MiB": memory.peak(call)}
    for name, ms in harness.interleaved(calls, device, rounds, target_ms).items():
        found[name] |= {"ms": ms, "note": remark(*steps[name])}
    return found


def rows(found: dict, load: Workload, model_name: str, size: int, ceilings: dict, device: str) -> list[dict]:
    """The table's rows. A row may bring its own "reference ms" (measured in another process)."""
    model, image_shape = network(model_name), batch(model_name, size, "cpu")[0].shape
    operations = work.flops(load.objective, model, image_shape)
    floor = roofline.floor_ms(load.objective, model, image_shape, ceilings, device)["floor ms"]
    base = found.get(REFERENCE, {}).get("ms")
    made = []
    for name, values in found.items():
        row = {"model": model_name, "method": load.name, "batch": size, "variant": name, **values}
        if ms := values.get("ms"):
            reference = values.get("reference ms", base)
            row |= {"images/s": size / ms * 1e3, "ratio": reference / ms if reference else None,
                    "TFLOP/s": operations / ms / 1e9, "of floor": floor / ms}
        made.append(row)
    return made


def compiled(load: Workload, model_name: str, size: int, device: str, cap: float, threads: int) -> dict:
    """torch.compile's variants as `measure` gives them, from a process that is ended after `cap` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        record, log = Path(folder) / "record.json", Path(folder) / "log.txt"
        command = [sys.executable, "-m", "bench.compiled_step", "--model", model_name, "--method", load.name,
                   "--batch-size", str(size), "--device", device, "--threads", str(threads), "--record", str(record)]
        ended = children.run(command, log, cap)
        found = json.loads(record.read_text()) if record.is_file() else {}
        if ended != "done":
            found["torch.compile"] = {"note": f"{ended}: {children.last_line(log)}"[:300]}
    return found


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["atlas"])
    parser.add_argument("--models", "--model", nargs="+", default=["wrn-28-8"])
    parser.add_argument("--batch-sizes", "--batch-size", nargs="+", type=int, default=[64])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--variants", nargs="+", metavar="PATTERN")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--target-ms", type=float, default=100.0, help="time of a variant in one round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile-cap", type=float, help="seconds for torch.compile; 0: without it")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    device = harness.choose_device(args.device)
    cap = args.compile_cap if args.compile_cap is not None else (300.0 if device == "cuda" else 0.0)
    loads = [workload(method) for method in args.methods]
    selected, ceilings, everything = chosen(device, args.variants), roofline.ceilings(device), []
    for load, model_name, size in ((a, b, c) for b in args.models for a in loads for c in args.batch_sizes):
        found = measure(load, model_name, size, device, selected, args.rounds, args.target_ms)
        if cap:
            found |= compiled(load, model_name, size, device, cap, args.threads)
        made = rows(found, load, model_name, size, ceilings, device)
        path = harness.save("step", device, made, KEY)
        print(harness.markdown(made, COLUMNS), flush=True)
        everything += made
    print(f"\n{harness.environment(device)}\nwritten to {path}")
    return everything


if __name__ == "__main__":
    main()
