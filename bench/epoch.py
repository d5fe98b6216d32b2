"""What data costs: an epoch of the trainer against as many bare steps on batches that lie ready.

    python -m bench.epoch [--images 50000] [--model wrn-28-8] [--method atlas] [--batch-size 64] [--device auto]
                          [--dataset cifar10 --data-dir DIR] [--rounds 3]

The epoch is `atlas_fast.training.loop.steps`, which training runs: shuffled uint8 images from the device, random crops
and flips, the step, the sums of the loss's terms and their checks. The bare steps get float images and no
augmentation. Both alternate; a figure is the median over the rounds. Images are synthetic unless --dataset names a set
that is at hand. Ratio 1 means that a full epoch takes no longer than its batches.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch

from atlas_fast import data
from atlas_fast.engine import TrainingStep
from atlas_fast.training import config, loop, setup
from atlas_fast.training.progress import Progress
from bench import harness
from bench.workload import sgd, shape, workload


def synthetic(images: int, channels: int, pixels: int) -> data.Dataset:
    """Random uint8 images of ten classes; one batch's worth of validation and test images, which nobody looks at."""
    generator = torch.Generator().manual_seed(0)

    def part(n):
        x = torch.randint(256, (n, channels, pixels, pixels), dtype=torch.uint8, generator=generator)
        return x, torch.randint(10, (n,), generator=generator)

    return data.Dataset("synthetic", *part(images), *part(10), 10, val=part(10))


def prepare(args, device: str) -> setup.Run:
    """The trainer's parts for this method, network and data."""
    load = workload(args.method)
    given = {"dataset": args.dataset or "cifar10", "data_dir": args.data_dir, "model": args.model,
             "method": load.method, "batch_size": args.batch_size, "augment": "crop-flip", "engine": args.engine,
             "device": device, "max_batches": args.max_batches, **({"steps": load.steps} if load.steps else {})}
    resolved = config.resolve(given)
    images = None if args.dataset else synthetic(args.images, *shape(args.model))
    return setup.prepare(resolved, images)


def measure(run: setup.Run, device: str, rounds: int) -> dict:
    """{"epoch ms", "bare ms", "data ms", "ratio"}: per batch; "data": drawing and augmenting the batches alone."""
    count, silent = len(run.batches), Progress(1)
    layout = torch.channels_last if run.batches.channels_last else torch.contiguous_format
    ready = [((x.float() / 255 if x.dtype == torch.uint8 else x).contiguous(memory_format=layout), y)
             for (x, y), _ in zip(run.batches.epoch(0), range(8), strict=False)]
    run.model.train()
    model = copy.deepcopy(run.model)
    step = TrainingStep(model, run.step.objective, sgd(model), run.config.engine, amp=run.config.amp)

    def epoch():
        loop.steps(run, 1, silent)

    def bare():
        for i in range(count):
            step(*ready[i % len(ready)])

    def draw():
        for x, _ in run.batches.epoch(0):
            run.step.augment(x.float().div_(255), run.step.rng)

    first = next(iter(run.batches.epoch(0)))
    harness.warm_up(lambda: run.step(*first), device)
    harness.warm_up(lambda: step(*ready[0]), device)
    times = {name: [] for name in ("epoch", "bare", "data")}
    for _ in range(rounds):
        for name, function in (("epoch", epoch), ("bare", bare), ("data", draw)):
            harness.synchronise(device)
            began = time.perf_counter()
            function()
            harness.synchronise(device)
            times[name].append((time.perf_counter() - began) * 1e3 / count)
    median = {f"{name} ms": statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["epoch"], times["bare"], strict=True))
    return {"batches": count, **median, "ratio": ratio}


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--model", default="wrn-28-8")
    parser.add_argument("--method", default="atlas")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--dataset", choices=data.NAMES)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--max-batches", type=int, help="of an epoch")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    device = harness.choose_device(args.device)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    run = prepare(args, device)
    row = {"model": args.model, "method": args.method, "batch": args.batch_size, "engine": run.step.engine,
           "images": args.dataset or f"{args.images} synthetic", **measure(run, device, args.rounds)}
    print(harness.markdown([row], list(row)))
    print(f"written to {harness.save('epoch', device, [row], ('model', 'method', 'batch', 'engine', 'images'))}")
    return row


if __name__ == "__main__":
    main()
