"""The sections of `bench.gpu`, each a function that records what it finds at once.

    python -m bench.sections NAME --out DIR [--seconds S] [--device cuda] [--model wrn-28-8] [--batch-size 64]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from atlas_fast import _extension
from bench import (
    bench_norm_relu_plans,
    compiled_step,
    convolutions,
    epoch,
    gpu,
    harness,
    profile,
    resumed,
    roofline,
    step,
)
from bench.step_variants import REFERENCE, Variant, build, variants
from bench.workload import batch, network, shape, workload

TUNED, UNTUNED = Variant(None, True), Variant(None, True, tuned=False)
SLOW = 200.0  # milliseconds from which plain PyTorch's step is not measured among the first


class Found:
    """DIR/NAME.json: what this section has found so far; on what it runs, and the seconds that are left to it."""

    def __init__(self, args):
        self.out, self.device, self.model, self.batch = args.out.resolve(), args.device, args.model, args.batch_size
        self.path, self.value, self.end = self.out / f"{args.name}.json", {}, time.monotonic() + args.seconds

    def __call__(self, **values) -> None:
        self.value.update(values)
        harness.write_json(self.path, self.value)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def of(self, section: str) -> dict:
        """What an earlier section found."""
        path = self.out / f"{section}.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def ceilings(self) -> dict:
        return self.of("ceilings").get("ceilings") or roofline.ceilings(self.device)

    def built(self, variant: Variant, method: str = "atlas"):
        """The variant's call on this section's network and batch."""
        return build(variant, workload(method), network(self.model, self.device),
                     *batch(self.model, self.batch, self.device))[0]


def build_(found: Found) -> None:
    """Install the package with kernels for this GPU, unless the installed module has them and is of these sources."""
    if found.device != "cuda":
        found(built="not needed on a CPU")
        return
    major, minor = torch.cuda.get_device_capability()
    built = _extension.build_info()
    archs = str(built.get("cuda_archs") or "")
    if built.get("cuda") and any(name in archs for name in (f"{major}.{minor}", f"{major}{minor}")):
        found(built="not needed: the installed module has this GPU's kernels", archs=archs)
        return
    began, root = time.monotonic(), harness.FOLDER.parent
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--ignore-installed"]
    # As many jobs as cores: memory that a virtual machine gets as it uses it does not show yet.
    env = {"MAX_JOBS": str(os.cpu_count()), **os.environ, "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}",
           "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for place in ((), ("--target", str(found.out / gpu.SITE))):  # there every section finds it
        status = subprocess.run([*command, *place, str(root)], env=env, cwd=root).returncode
        if status == 0:
            break
    found(built="installed" if status == 0 else f"pip ended with status {status}", seconds=time.monotonic() - began)
    if status:
        raise SystemExit(1)


def smoke(found: Found) -> None:
    """What is in use, and one step by each engine with a finite loss."""
    told = subprocess.run([sys.executable, "-m", "atlas_fast.info", "--json"], capture_output=True, text=True)
    print(told.stdout, told.stderr)
    found(info=json.loads(told.stdout) if told.returncode == 0 else told.stderr[-500:])
    losses, wrong = {}, []
    for variant in variants(found.device):
        if variant.engine is None or (variant.bf16 and found.device == "cpu"):
            continue  # in bf16 a CPU refuses some
        variant = dataclasses.replace(variant, tuned=False)
        try:
            call, made = build(variant, workload("atlas"), network("wrn-10-1", found.device),
                               *batch("wrn-10-1", 8, found.device))
            loss = [float(call()) for _ in range(5)][-1]  # late enough that a graph, where there is one, has replayed
            ran = {"loss": loss, "captured": getattr(made, "captured", None),
                   "capture reason": getattr(made, "capture_reason", None)}
            wrong += [] if math.isfinite(loss) else [variant.name]
        except Exception as error:  # the other engines are to be seen too
            ran, wrong = {"error": f"{type(error).__name__}: {error}"[:500]}, [*wrong, variant.name]
        losses[variant.name] = ran
        found(losses=losses)
    if wrong:
        print(f"failed: {', '.join(wrong)}")
        raise SystemExit(1)


def ceilings(found: Found) -> None:
    measured = roofline.ceilings(found.device)
    model, (channels, pixels) = network(found.model), shape(found.model)
    images = (found.batch, channels, pixels, pixels)
    found(ceilings=measured, floors={
        name: roofline.floor_ms(workload(name).objective, model, images, measured, found.device)
        for name in roofline.METHODS})
    harness.save("ceilings", found.device, [{"ceiling": name, "value": value} for name, value in measured.items()],
                 ("ceiling",))
    print(json.dumps(found.value, indent=1))


def convolutions_(found: Found) -> None:
    torch.backends.cudnn.benchmark = True
    sizes = [times * found.batch for times in (1, 2, 3)]
    made = convolutions.measure(found.model, "atlas", sizes, found.device, lambda value: found(**value))
    harness.save("convolutions", found.device, made["rows"], tuple(made["rows"][0])[:4])
    print(harness.markdown(made["rows"], list(made["rows"][0])))


def weight_gradient(found: Found) -> None:
    command = [sys.executable, "-m", "bench.weight_gradient", "--model", found.model, "--batch-size",
               str(found.batch), "--device", found.device, "--record", str(found.path)]
    _run(command)


def reference(found: Found) -> None:
    """Plain PyTorch alone. cuDNN's measuring may take very long on the double backward's huge kernels: only what gets
    through here runs so in the sections after."""
    rows = []
    for variant in (UNTUNED, TUNED, Variant(None, False)):
        row = {"model": found.model, "method": "atlas", "batch": found.batch, "variant": variant.name}
        found(rows=[*rows, {**row, "note": "running"}])
        call = found.built(variant)
        first = harness.warm_up(call, found.device)
        ms = harness.interleaved({"it": call}, found.device, 3, 100.0)["it"]
        rows.append({**row, "first call s": first, "ms": ms})
        found(rows=rows)
    print(harness.markdown(rows, list(rows[0])))


def steps(found: Found) -> None:
    """ATLAS by captured sweeps beside plain PyTorch, ADV, a profile of the fastest; then every other way to run ATLAS,
    the other methods and batches, while time lasts."""
    plain = {row["variant"]: row["ms"] for row in found.of("reference").get("rows", []) if row.get("ms")}
    every = [dataclasses.replace(v, tuned=TUNED.name in plain) if v.engine == "autograd" else v
             for v in variants(found.device) if v.engine or v.name in plain]
    first = [v for v in every if (v.capture == "auto" and v.engine == "sweeps" and not v.checkpoints)
             or plain.get(v.name, 1e9) < SLOW]
    measured, rows = found.ceilings(), []

    def one(method: str, size: int, selected) -> None:
        load = workload(method)
        ms = step.measure(load, found.model, size, found.device, selected, 5, 100.0)
        made = step.rows(ms, load, found.model, size, measured, found.device)
        rows.extend(made)
        found(rows=rows)
        harness.save("step", found.device, made, step.KEY)
        print(harness.markdown(made, step.COLUMNS), flush=True)

    def fastest() -> Variant | None:
        own = [row for row in rows if row.get("ms") and not row["variant"].startswith("PyTorch")]
        name = min(own, key=lambda row: row["ms"])["variant"] if own else None
        return next((v for v in every if v.name == name), None)

    rest = [v for v in every if v not in first]
    if first:
        one("atlas", found.batch, first)
    if fastest() is None:  # no graph: a CPU, or what smoke has told
        one("atlas", found.batch, rest)
        rest = []
    best = fastest()
    if best is None:
        raise SystemExit("no way to run the step gave a time: see the notes in its rows")
    few = [v for v in every if v == best or (v.engine is None and v.bf16)]
    one("adv", found.batch, [v for v in first if v.bf16 or v == best] or few)
    made = {"model": found.model, "method": "atlas", "batch": found.batch, "variant": best.name,
            **profile.profile_step(found.built(best), found.device)}
    found(profile=made)
    harness.save("profile", found.device, [made], step.KEY)
    print(profile.table(made), flush=True)
    if rest:
        one("atlas", found.batch, rest)
    for method, times in (("trades", 1), ("atlas", 2), ("jac", 1), ("atlas_l", 1), ("atlas_g", 1), ("tradesjac", 1),
                          ("plain", 1), ("atlas-10", 1), ("atlas", 4)):
        if found.left < 12:
            found(stopped=f"no time for {method} at {times * found.batch} and what follows")
            break
        one(method, times * found.batch, few)


def epoch_(found: Found) -> None:
    images = 50_000 if found.device == "cuda" else 10 * found.batch
    found(**epoch.main(["--device", found.device, "--images", str(images), "--model", found.model, "--batch-size",
                        str(found.batch), "--rounds", "1"]))


def norm(found: Found) -> None:
    """The fused batch norm operations, where they are: their benchmark files are named bench_norm_relu*.py.

    A file's `traffic(size)`, bytes that a call moves at least, gives the bandwidth.
    """
    files, rows = sorted(harness.FOLDER.glob("bench_norm_relu*.py")), []
    if not files:
        found(why="there is no bench/bench_norm_relu*.py")
    bandwidth = found.ceilings()["copy GB/s"]
    for file in files:
        module = importlib.import_module(f"bench.{file.stem}")
        for size in module.SIZES:
            ms = harness.interleaved(module.case(size, found.device), found.device)
            row = {"operation": file.stem.removeprefix("bench_"), "size": size, "atlas_fast us": ms["atlas_fast"] * 1e3,
                   "PyTorch us": ms["PyTorch"] * 1e3, "ratio": ms["PyTorch"] / ms["atlas_fast"]}
            if hasattr(module, "traffic"):
                row["GB/s"] = module.traffic(size) / ms["atlas_fast"] / 1e6
                row["of copy"] = row["GB/s"] / bandwidth
            rows.append(row)
            found(rows=rows)
    if rows:
        harness.save("operations", found.device, rows)
        print(harness.markdown(rows, list(rows[-1])))


def compile_(found: Found) -> None:
    load = workload("atlas")

    def record(name: str, values: dict) -> None:
        found(**{name: values})
        print(name, values, flush=True)
        made = step.rows({name: values}, load, found.model, found.batch, ceilings, found.device)
        harness.save("step", found.device, made, step.KEY)

    ceilings = found.ceilings()
    started = {row["variant"] for row in found.of("reference").get("rows", []) if row.get("ms")}
    compiled_step.measure(load, found.model, found.batch, found.device, record, reference=REFERENCE in started,
                          tuned=TUNED.name in started)


def agreement(found: Found) -> None:
    """The tests that a graph steps as without one, and that gradients in bfloat16 are those of float64."""
    _pytest(found, "tests/engine/test_capture.py", "tests/engine/test_on_gpu.py", "-k",
            "graph_steps or bfloat16 or pairs_and_streams")


def tests(found: Found) -> None:
    _pytest(found, "tests")


def _pytest(found: Found, *arguments: str) -> None:
    """The tests of the GPU among these, by several processes where pytest-xdist is there."""
    several = ("-n", str(min(8, os.cpu_count() or 1))) if importlib.util.find_spec("xdist") else ()
    command = [sys.executable, "-m", "pytest", *arguments, "-m", "gpu", "-q", "--no-header", "--tb", "short", *several]
    ran = subprocess.run(command, cwd=harness.FOLDER.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True)
    print(ran.stdout)
    lines = ran.stdout.strip().splitlines() or [f"pytest: status {ran.returncode}"]
    found(checked=lines[-1], clean=ran.returncode == 0 and " passed" in lines[-1],
          failed=[line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))][:40])
    if ran.returncode:
        raise SystemExit(1)


def plans(found: Found) -> None:
    """Launch configurations of the fused batch norm."""
    if found.device != "cuda":
        found(why="there are none on a CPU")
        return
    rows = bench_norm_relu_plans.measure(list(bench_norm_relu_plans.PASSES), list(bench_norm_relu_plans.CHANGES),
                                         lambda rows: found(rows=rows))
    harness.save("norm-plans", found.device, rows, bench_norm_relu_plans.KEY)


def resume(found: Found) -> None:
    """A training by graphs that is killed and resumed, against two that are left alone."""
    found(**resumed.compare(found.out / "resume", found.device, lambda values: found(**values)))


def sanitizer(found: Found) -> None:
    """Every operation under memcheck and racecheck; without PyTorch's block cache, which would hide overruns."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        found(why="compute-sanitizer is not installed")
        raise SystemExit(1)
    env, results = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, {}
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-m", "bench.every_op", "--device",
                   found.device]
        results[check] = subprocess.run(command, cwd=harness.FOLDER.parent, env=env).returncode
        found(results=results)
    found(checked=", ".join(f"{check}: {'clean' if status == 0 else f'status {status}'}"
                            for check, status in results.items()), clean=not any(results.values()))
    if any(results.values()):
        raise SystemExit(1)


def _run(command: list[str]) -> None:
    if status := subprocess.run(command, cwd=harness.FOLDER.parent).returncode:
        raise SystemExit(status)


ALL = {"build": build_, "smoke": smoke, "agreement": agreement, "ceilings": ceilings, "reference": reference,
       "steps": steps, "convolutions": convolutions_, "compile": compile_, "epoch": epoch_, "norm": norm,
       "weight_gradient": weight_gradient, "tests": tests, "sanitizer": sanitizer, "plans": plans, "resume": resume}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=ALL)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--model", default="wrn-28-8")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    harness.choose_device(args.device)
    gc.freeze()  # every capture collects garbage: not among all that the imports have made
    ALL[args.name](Found(args))


if __name__ == "__main__":
    main()
