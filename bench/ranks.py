"""What several processes gain on the CPUs of one machine, and what their messages cost.

    python -m bench.ranks [--models small_cnn wrn-10-2] [--method atlas] [--batch-sizes 128 32] [--processes 2]
                          [--rounds 15]

Every process computes on one thread; the messages go by gloo. In each round, one after the other:

    one              one process takes the whole batch, the others wait
    together         all take the step of the whole batch, each its part, and average their gradients
    together, sync   the same, with BatchNorm's statistics over the whole batch (networks with BatchNorm)
    apart            all take a step of a part by themselves: what the cores can do, were messages free

A figure is the median over the rounds, of the slowest process each time. `ratio` is the time of "one" over that of the
variant: with P processes P at best. It cannot say anything of GPUs or of several machines, whose links and kernels are
others; on virtual CPUs that share a core even "apart" stays near 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from atlas_fast.engine import Ranks, TrainingStep
from bench import harness
from bench.workload import batch, network, sgd, workload

KEY = ("model", "method", "batch", "processes", "variant")


def steps(model: str, method: str, size: int, ranks: Ranks) -> dict:
    """{variant: its step, as a call without arguments}; "one" is for the first process alone."""
    x, y = batch(model, size, "cpu")

    def step(part: Ranks, sync_bn: str = "off"):
        net = network(model)
        made = TrainingStep(net, workload(method).objective, sgd(net), ranks=part, sync_bn=sync_bn)
        images, labels = part.part(x), part.part(y)
        return lambda: made(images, labels)

    found = {"one": step(Ranks.alone()), "together": step(ranks)}
    if any(isinstance(module, nn.BatchNorm2d) for module in network(model).modules()):
        found["together, sync"] = step(ranks, "on")
    return {**found, "apart": step(Ranks(ranks.rank, ranks.size))}  # without a group: nothing is exchanged


def measure(model: str, method: str, size: int, rounds: int, ranks: Ranks) -> dict[str, float]:
    """{variant: median milliseconds}, the same in every process; a first round warms up."""
    variants = steps(model, method, size, ranks)
    times = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, step in variants.items():
            ranks.wait(torch.device("cpu"))
            began = time.perf_counter()
            if name != "one" or ranks.leads:
                step()
            mine = torch.tensor([(time.perf_counter() - began) * 1e3])
            slowest = float(ranks.gather(mine).max())
            if turn:
                times[name].append(slowest)
    return {name: statistics.median(values) for name, values in times.items()}


def work(args, rank: int, meeting: str) -> None:
    """One of the processes; the first writes the record."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(meeting, args.processes), rank=rank,
                            world_size=args.processes, timeout=timedelta(hours=1))
    ranks, rows = Ranks.of_group(), []
    for model, size in zip(args.models, args.batch_sizes, strict=True):
        found = measure(model, args.method, size, args.rounds, ranks)
        for name, ms in found.items():
            rows.append({"model": model, "method": args.method, "batch": size, "processes": ranks.size,
                         "variant": name, "rounds": args.rounds, "ms": ms, "images/s": size / ms * 1e3,
                         "ratio": found["one"] / ms})
    if ranks.leads:
        print(harness.markdown(rows, [*KEY, "ms", "images/s", "ratio"]))
        print(f"written to {harness.save('ranks', 'cpu', rows, KEY)}", flush=True)
    dist.destroy_process_group()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small_cnn", "wrn-10-2"])
    parser.add_argument("--method", default="atlas")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[128, 32], help="of all processes, a model each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(arguments)
    if len(args.models) != len(args.batch_sizes) or any(size % args.processes for size in args.batch_sizes):
        print(f"give a batch size for each model, a multiple of {args.processes}")
        return 2
    workload(args.method)  # refuses what it does not know before anything starts
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a process starts
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=work, args=(args, rank, str(Path(folder) / "meeting")))
                     for rank in range(args.processes)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    return max(abs(process.exitcode) for process in processes)


if __name__ == "__main__":
    raise SystemExit(main())
