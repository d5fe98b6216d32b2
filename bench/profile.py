"""Where a step's time goes, by kind of kernel.

    python -m bench.profile [--model wrn-28-8] [--method atlas] [--batch-size 64] [--device auto] [--variant NAME]
                            [--steps 3] [--json FILE]

On CUDA the time of every kernel, copy and fill on the device (graph replays too) and how many are launched; on a CPU
the self time of every operator. Which name is of which kind stands in `bench/kinds.py`; names without a rule are
listed. Variants are those of `bench.step`. "span" is a step's time without the profiler: what it exceeds the kernels'
sum by, the device was idle.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench import harness, kinds
from bench.step_variants import build, variants
from bench.workload import batch, network, workload

DEVICE_EVENTS = ("kernel", "gpu_memcpy", "gpu_memset")


def events(step: Callable, device: str, steps: int = 3) -> list[tuple[str, str | None, float]]:
    """(name, kind or None, milliseconds) of everything that ran in `steps` steps."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity], record_shapes=device != "cuda") as profiled:
        for _ in range(steps):
            step()
        harness.synchronise(device)
    return _kernels(profiled) if device == "cuda" else _operators(profiled)


def _kernels(profiled):
    # The exported trace, unlike profiled.events(), tells kernels from ranges that users annotate.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())["traceEvents"]
    return [(e["name"], kinds.kernel_kind(e["name"]), e["dur"] / 1e3) for e in trace if e.get("cat") in DEVICE_EVENTS]


def _operators(profiled):
    return [(e.name, _operator_kind(e), e.self_cpu_time_total / 1e3) for e in profiled.events()]


def _operator_kind(event):
    nested = [event]
    while nested[-1].cpu_parent is not None:
        nested.append(nested[-1].cpu_parent)
    named = nested[kinds.owner([e.name for e in nested])]
    return kinds.operator_kind(named.name, named.input_shapes, named.concrete_inputs)


def summary(found: list[tuple[str, str | None, float]], steps: int) -> dict:
    """{"ms", "launches", "kinds": {kind: {"ms", "launches"}}, "unknown": {name: {...}}} per step, largest first."""
    by_kind, unknown = defaultdict(lambda: [0.0, 0]), defaultdict(lambda: [0.0, 0])
    for name, kind, ms in found:
        totals = [by_kind[kind or "unknown"], *([unknown[name[:200]]] if kind is None else [])]
        for total in totals:
            total[0] += ms
            total[1] += 1

    def table(totals):
        return {name: {"ms": ms / steps, "launches": n / steps}
                for name, (ms, n) in sorted(totals.items(), key=lambda item: -item[1][0])}

    return {"ms": sum(ms for *_, ms in found) / steps, "launches": len(found) / steps, "kinds": table(by_kind),
            "unknown": table(unknown)}


def longest(found: list[tuple[str, str | None, float]], steps: int, count: int = 40) -> list[dict]:
    """The names that take most time."""
    totals = defaultdict(lambda: [None, 0.0, 0])
    for name, kind, ms in found:
        entry = totals[name[:200]]
        entry[0], entry[1], entry[2] = kind, entry[1] + ms, entry[2] + 1
    rows = [{"name": name, "kind": kind, "ms": ms / steps, "launches": n / steps}
            for name, (kind, ms, n) in totals.items()]
    return sorted(rows, key=lambda row: -row["ms"])[:count]


def profile_step(step: Callable, device: str, steps: int = 3) -> dict:
    """`summary` with "span ms", the step's time without the profiler, and "longest"."""
    harness.warm_up(step, device)
    span = min(harness.once(step, steps, device) for _ in range(3))
    events(step, device, 1)  # the profiler's own start-up
    found = events(step, device, steps)
    return {"span ms": span, **summary(found, steps), "longest": longest(found, steps)}


def table(made: dict) -> str:
    rows = [{"kind": name, "ms": v["ms"], "share": v["ms"] / made["ms"], "launches": v["launches"]}
            for name, v in made["kinds"].items()]
    lines = [harness.markdown(rows, ["kind", "ms", "share", "launches"]),
             f"\nsum {made['ms']:.3f} ms, span {made['span ms']:.3f} ms, {made['launches']:.0f} a step"]
    lines += [f"unknown: {v['ms']:.4f} ms, {v['launches']:.1f} a step: {name}" for name, v in made["unknown"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wrn-28-8")
    parser.add_argument("--method", default="atlas")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--variant", help="a name that bench.step prints; default: the last one for this device")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = harness.choose_device(args.device)
    known = {v.name: v for v in variants(device)}
    name = args.variant or ("sweeps float32" if device == "cpu" else list(known)[-1])
    if name not in known:
        print(f"no variant is called {name!r}; on this device: {', '.join(known)}")
        raise SystemExit(2)
    model, (x, y) = network(args.model, device), batch(args.model, args.batch_size, device)
    step, _ = build(known[name], workload(args.method), model, x, y)
    made = {"model": args.model, "method": args.method, "batch": args.batch_size, "variant": name,
            **profile_step(step, device, args.steps)}
    print(f"{args.model}, {args.method}, batch {args.batch_size}, {name}\n\n{table(made)}")
    path = harness.save("profile", device, [made], ("model", "method", "batch", "variant"))
    if args.json:
        harness.write_json(args.json, made)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
