"""Milliseconds of PGD and Multi-T through FastNetwork and in plain PyTorch with the same verdicts, interleaved.

    python -m bench.attacks [--run RUN_DIR [--data-dir D]] [--n 256] [--batch-size 128] [--rounds 5] [--threads 1]

Without a run a small_cnn is trained for some seconds on the digits, enlarged to 28x28. Variants: the package's attacks
on a FastNetwork and on the model itself (PyTorch's autograd inside), plain loops that attack every image to the end,
and plain loops that leave out what an earlier target broke.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

import atlas_fast as af
from atlas_fast import ops
from atlas_fast.attacks import PGD, MultiTargeted
from atlas_fast.attacks.steps import random_start
from atlas_fast.engine import FastNetwork
from atlas_fast.training.config import read_config
from bench import harness, plain_attacks


def quick_network(seconds: float = 40.0):
    """(small_cnn trained by one-step ATLAS on 28x28 digits, test images, labels, eps)."""
    data = af.data.load("digits")
    torch.manual_seed(0)
    model = af.models.small_cnn(data.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    step = af.TrainingStep(model, af.objectives.atlas(eps=0.2, alpha=1e-5, beta=0.3), optimizer, amp="off")
    x, began = enlarged(data.train_images), time.perf_counter()
    while (share := (time.perf_counter() - began) / seconds) < 1:
        step.ramp = min(1.0, 2 * share)
        rows = torch.randint(len(x), (128,))
        step(x[rows], data.train_labels[rows])
    return model.eval(), enlarged(data.test_images), data.test_labels, 0.2


def enlarged(images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(af.data.to_float(images), size=28, mode="bilinear").clamp(0, 1)


def network_of(run: str, data_dir: str | None):
    """(model, test images, labels, eps) of a run."""
    config, _ = read_config(run)
    data = af.data.load(config.dataset, data_dir or config.data_dir, config.image_size)
    return af.load(run), af.data.to_float(data.test_images), data.test_labels, config.eps


def variants(model, x, y, eps: float, batch_size: int, pgd_steps: int, steps: int, restarts: int) -> dict:
    """{attack: {variant: a call that returns who is broken}}."""
    rng, classes, step_size = ops.make_rng(0, 0, x.device), model(x[:2]).shape[1], eps / 30
    batches = [slice(i, i + batch_size) for i in range(0, len(y), batch_size)]

    def package(attack, fast):
        def run():
            network = FastNetwork(model) if fast else model
            wrong = [model(attack(network, x[b], y[b], rng, b.start)).argmax(1) != y[b] for b in batches]
            return torch.cat(wrong)
        return run

    def plain(function, *args):
        def run():
            return torch.cat([function(model, x[b], y[b], lambda draw, b=b: random_start(x[b], eps, "Linf", rng, draw,
                                                                                          b.start), eps, *args)
                              for b in batches])
        return run

    pgd, multi = PGD(eps, step_size, pgd_steps), MultiTargeted(eps, 2 * step_size, steps, restarts)
    return {
        f"PGD-{pgd_steps}": {
            "FastNetwork": package(pgd, True), "autograd": package(pgd, False),
            "plain": plain(plain_attacks.pgd, step_size, pgd_steps)},
        f"Multi-T {restarts}x{steps}": {
            "FastNetwork": package(multi, True), "autograd": package(multi, False),
            "plain": plain(plain_attacks.multi_targeted, 2 * step_size, steps, restarts, classes, False),
            "plain, survivors": plain(plain_attacks.multi_targeted, 2 * step_size, steps, restarts, classes, True)},
    }


def measured(attack: str, calls: dict, rounds: int, device: str) -> list[dict]:
    """A row per variant: median milliseconds, the median over the rounds of plain / variant, who is broken."""
    times, broken = {name: [] for name in calls}, {}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            milliseconds = harness.once(lambda call=call, name=name: broken.update({name: call()}), 1, device)
            if turn:
                times[name].append(milliseconds)
    return [{"attack": attack, "variant": name, "broken": int(broken[name].sum()),
             "other verdicts": int((broken[name] != broken["plain"]).sum()), "ms": statistics.median(values),
             "times plain": statistics.median(p / v for p, v in zip(times["plain"], values, strict=True))}
            for name, values in times.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a run of atlas_fast.train")
    parser.add_argument("--data-dir", help="of the run's data set; default: as it was trained")
    parser.add_argument("--n", type=int, default=256, help="test images")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--pgd-steps", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10, help="of Multi-T")
    parser.add_argument("--restarts", type=int, default=2, help="of Multi-T")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, x, y, eps = network_of(args.run, args.data_dir) if args.run else quick_network()
    model, x, y = model.to(args.device), x[:args.n].to(args.device), y[:args.n].to(args.device)
    rows = []
    for attack, calls in variants(model, x, y, eps, args.batch_size, args.pgd_steps, args.steps, args.restarts).items():
        rows += [{"n": len(y), "batch": args.batch_size, **row}
                 for row in measured(attack, calls, args.rounds, args.device)]
    print(harness.markdown(rows, list(rows[0])))
    print(f"\n{harness.environment(args.device)}")
    print(f"written to {harness.save('attacks', args.device, rows, ('attack', 'variant', 'n'))}")


if __name__ == "__main__":
    main()
