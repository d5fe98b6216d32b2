"""Seconds of APGD-CE, APGD-T and FAB-T against the reference code (pip install pyautoattack), interleaved.

    python -m bench.autoattack_parts [--run RUN_DIR [--data-dir D]] [--n 100] [--steps 100] [--targets 9] [--rounds 3]

Without a run, the network of `bench.attacks`. Variants: the reference code; the package's attacks on the model itself
(PyTorch's autograd inside) and on a FastNetwork. The starts differ, so that accuracies agree within noise only; the
tests compare verdicts from the same starts.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT

from atlas_fast import ops
from atlas_fast.attacks import APGD, APGDTargeted, FABTargeted
from atlas_fast.engine import FastNetwork
from bench import harness
from bench.attacks import network_of, quick_network


def pairs(model, eps: float, norm: str, steps: int, targets: int) -> dict:
    """{attack: (the reference code's, the package's)}."""
    shared = {"norm": norm, "n_iter": steps, "eps": eps}
    return {
        "APGD-CE": (APGDAttack(model, loss="ce", **shared), APGD(eps, "ce", steps, norm=norm)),
        "APGD-T": (APGDAttack_targeted(model, n_target_classes=targets, **shared),
                   APGDTargeted(eps, steps, targets=targets, norm=norm)),
        "FAB-T": (FABAttack_PT(model, targeted=True, n_target_classes=targets, **shared),
                  FABTargeted(eps, steps, targets=targets, norm=norm)),
    }


def measured(name: str, reference, attack, model, x, y, rounds: int, device: str) -> list[dict]:
    """A row per variant: median seconds, the median over the rounds of reference / variant, robust accuracy."""
    rng, found = ops.make_rng(0, 0, x.device), {}
    calls = {"reference": lambda: reference.perturb(x, y), "autograd": lambda: attack(model, x, y, rng),
             "FastNetwork": lambda: attack(FastNetwork(model), x, y, rng)}
    times = {variant: [] for variant in calls}
    for _ in range(rounds):
        for variant, call in calls.items():
            milliseconds = harness.once(lambda call=call, variant=variant: found.update({variant: call()}), 1, device)
            times[variant].append(milliseconds / 1000)
    with torch.no_grad():
        robust = {variant: (model(x_adv).argmax(1) == y).double().mean().item() for variant, x_adv in found.items()}
    return [{"attack": name, "variant": variant, "robust accuracy": robust[variant],
             "seconds": statistics.median(values),
             "times reference": statistics.median(r / v for r, v in zip(times["reference"], values, strict=True))}
            for variant, values in times.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a run of atlas_fast.train")
    parser.add_argument("--data-dir", help="of the run's data set; default: as it was trained")
    parser.add_argument("--n", type=int, default=100, help="test images, one batch")
    parser.add_argument("--norm", choices=("Linf", "L2"), default="Linf")
    parser.add_argument("--epsilon", type=float, help="pixel units; default: the run's, which is meant for L_inf")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--targets", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, x, y, eps = network_of(args.run, args.data_dir) if args.run else quick_network()
    model, x, y = model.to(args.device), x[:args.n].to(args.device), y[:args.n].to(args.device)
    eps, rows = args.epsilon or eps, []
    for name, (reference, attack) in pairs(model, eps, args.norm, args.steps, args.targets).items():
        settings = {"n": len(y), "norm": args.norm, "eps": eps, "steps": args.steps}
        found = measured(name, reference, attack, model, x, y, args.rounds, args.device)
        rows += [{**settings, **row} for row in found]
    print(harness.markdown(rows, list(rows[0])))
    print(f"\n{harness.environment(args.device)}")
    print(f"written to {harness.save('autoattack_parts', args.device, rows, ('attack', 'variant', 'norm', 'n'))}")


if __name__ == "__main__":
    main()
