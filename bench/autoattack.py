"""Standard AutoAttack as a whole against the reference code (pip install pyautoattack): time, verdicts, part by part.

    python -m bench.autoattack [--run RUN_DIR [--data-dir D]] [--n 500] [--group 100] [--batch-size 250] [--seeds 0]

Without a run, the network of `bench.attacks`. The images are taken in groups, each attacked by both in turn (the one
that begins changes), so that a busy machine slows both alike; each part attacks what the parts before it left. Columns:
robust accuracy after the part, by each; images on which the two disagree after it; the package's seconds (of the
processor on a CPU, of the clock on a GPU), the reference's, and the reference's over the package's. The starts are
random and differ, so accuracies agree within noise only; the tests compare verdicts from the same starts.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import torch
from pyautoattack import AutoAttack as Reference

from atlas_fast import ops
from atlas_fast.attacks import AutoAttack
from atlas_fast.engine import FastNetwork
from bench import harness
from bench.attacks import network_of, quick_network

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")  # of ten classes or more


@dataclass
class Cascade:
    """What one of the two did: after[part] bool [N], still robust; seconds[part]."""

    after: dict[str, list[torch.Tensor]] = field(default_factory=lambda: {part: [] for part in PARTS})
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def robust(self, part: str) -> torch.Tensor:
        return torch.cat(self.after[part])


def clock(device: str) -> float:
    harness.synchronise(device)
    return time.process_time() if device == "cpu" else time.perf_counter()


@torch.no_grad()
def right(model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return model(x).argmax(1) == y


def reference(model, x, y, eps: float, norm: str, seed: int, batch_size: int, device: str, cascade: Cascade) -> None:
    """The reference code's parts one by one, as its own loop runs them: each on what is left."""
    attack = Reference(model, norm=norm, eps=eps, seed=seed, version="standard", device=device)
    alive = right(model, x, y)
    for part in PARTS:
        attack.attacks_to_run = [part]
        began = clock(device)
        if alive.any():
            found = attack.run_standard_evaluation(x[alive], y[alive], batch_size=batch_size)[0]
        cascade.seconds[part] += clock(device) - began
        if alive.any():
            alive[alive.nonzero().squeeze(1)] = right(model, found, y[alive])
        cascade.after[part].append(alive.clone())


def package(model, x, y, eps: float, norm: str, seed: int, batch_size: int, device: str, cascade: Cascade,
            offset: int) -> None:
    """The package's cascade on a FastNetwork, which is made anew: that is part of its time."""
    attack, rng = AutoAttack(eps, norm, batch_size=batch_size), ops.make_rng(seed, 0, x.device)
    began = clock(device)
    result = attack.run(FastNetwork(model), x, y, rng, offset)
    whole, by_clock = clock(device) - began, sum(result.seconds.values())
    for number, part in enumerate(PARTS, start=1):
        # The parts' seconds are the clock's; their shares are those of the whole.
        cascade.seconds[part] += whole * result.seconds[part] / by_clock
        cascade.after[part].append((result.broken_by < 0) | (result.broken_by > number))


def rows(ours: Cascade, theirs: Cascade, settings: dict) -> list[dict]:
    """A row per part, and one of the whole."""
    made = []
    for part in (*PARTS, "AutoAttack"):
        last = PARTS[-1] if part == "AutoAttack" else part
        a, b = ours.robust(last), theirs.robust(last)
        mine, reference_s = ((sum(c.seconds.values()) if part == "AutoAttack" else c.seconds[part])
                             for c in (ours, theirs))
        made.append({**settings, "part": part, "robust": a.double().mean().item(),
                     "reference robust": b.double().mean().item(), "disagree": int((a != b).sum()),
                     "seconds": mine, "reference s": reference_s, "times reference": reference_s / mine})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a run of atlas_fast.train")
    parser.add_argument("--data-dir", help="of the run's data set; default: as it was trained")
    parser.add_argument("--n", type=int, default=500, help="test images")
    parser.add_argument("--group", type=int, default=100, help="images that both attack before the next ones")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--norm", choices=("Linf", "L2"), default="Linf")
    parser.add_argument("--epsilon", type=float, help="pixel units; default: the run's, which is meant for L_inf")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, x, y, eps = network_of(args.run, args.data_dir) if args.run else quick_network()
    model, x, y = model.to(args.device).requires_grad_(False), x[:args.n].to(args.device), y[:args.n].to(args.device)
    eps, made = args.epsilon or eps, []
    for seed in args.seeds:
        ours, theirs = Cascade(), Cascade()
        for number, first in enumerate(range(0, len(y), args.group)):
            group = slice(first, first + args.group)
            shared = (model, x[group], y[group], eps, args.norm, seed, args.batch_size, args.device)
            turns = [lambda: package(*shared, ours, first), lambda: reference(*shared, theirs)]  # noqa: B023
            for turn in turns if number % 2 == 0 else reversed(turns):
                turn()
            print(harness.markdown(rows(ours, theirs, {"images": first + len(y[group])}),
                                   ["images", "part", "robust", "reference robust", "disagree", "times reference"]),
                  flush=True)
        made += rows(ours, theirs, {"n": len(y), "group": args.group, "norm": args.norm, "eps": eps, "seed": seed})
    print("\n" + harness.markdown(made, list(made[0])))
    print(f"\n{harness.environment(args.device)}")
    print(f"written to {harness.save('autoattack', args.device, made, ('n', 'norm', 'eps', 'seed', 'part'))}")


if __name__ == "__main__":
    main()
