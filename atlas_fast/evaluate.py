"""Robust accuracy of a trained run on its data set's test images.

    python -m atlas_fast.evaluate RUN_DIR [--attacks pgd-20 pgd-100] [--step-size S] [--epsilon E] [--limit N]
    python -m atlas_fast.evaluate --compare RUN_A RUN_B ...
    torchrun --nproc-per-node N -m atlas_fast.evaluate RUN_DIR ...         the same results, batches shared out

Prints a table and writes RUN_DIR/evaluation.json, per_sample.npz and report.html. Until then finished batches are kept
in RUN_DIR/evaluation.parts, so the same command goes on where an interrupted one was. The module is callable, so that
`atlas_fast.evaluate(model, x, y)` also works after `import atlas_fast.evaluate`.
"""

from __future__ import annotations

import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import torch

from . import __version__
from .attacks.checks import at_least_one, positive
from .attacks.steps import NORMS
from .data import ImageFiles, rows_of
from .data import load as load_data
from .data.dataset import Dataset
from .data.image_folder import IN_MEMORY
from .engine import Ranks
from .errors import ArgumentParser, UserError, run_cli
from .evaluation import evaluate
from .evaluation.compare import comparison_table, side_by_side
from .evaluation.output import Output, writable, write_all
from .evaluation.page import write_comparison
from .evaluation.parts import Parts, fingerprint, model_fingerprint
from .evaluation.robust_accuracy import measure
from .evaluation.run import Evaluation, check_data, subset
from .evaluation.suite import Planned, create_suite
from .evaluation.sweeps import curve_plan
from .evaluation.tables import table
from .loading import load
from .training import launch
from .training.config import Config, read_config

# One process may wait for another's batch, which AutoAttack on a large network can take hours for.
TIMEOUT = timedelta(days=7)


def parser() -> ArgumentParser:
    p = ArgumentParser(prog="python -m atlas_fast.evaluate", description="Robust accuracy of a run on its test images.")
    p.add_argument("run_dir", type=Path, nargs="?", help="folder of a run of atlas_fast.train")
    p.add_argument("--attacks", nargs="+", default=["pgd-20"], metavar="NAME",
                   help="fgsm, pgd-K[-R] (K steps, R restarts), untargeted[-K[-R]], multitargeted[-K[-R]], apgd-ce, "
                        "apgd-dlr, apgd-t, fab-t, square[-QUERIES], autoattack, rays[-QUERIES], transfer[-K[-R]], or "
                        "module:function; pgd-20@0.01 and pgd-20@eps/10 set one attack's step; default: pgd-20")
    p.add_argument("--epsilon", type=float, help="radius in pixel units ([0,1] images); default: the run's")
    p.add_argument("--norm", choices=NORMS, default="Linf", help="default: Linf; L2 needs --epsilon")
    p.add_argument("--step-size", type=float, help="of PGD and its like, pixel units; default: that of the run's "
                                                   "validation, on mnist eps/10 as well")
    p.add_argument("--any-step", action="store_true", help="an adversary at any step of PGD counts, not only the last")
    p.add_argument("--surrogate", type=Path, metavar="RUN", help="the run whose network crafts for transfer")
    p.add_argument("--transfer-cache", type=Path, metavar="DIR",
                   help="keeps the surrogate's adversaries for the next run (default: SURROGATE/transfer)")
    p.add_argument("--curves", action="store_true", help="also robust accuracy against eps and PGD's steps")
    p.add_argument("--limit", type=int, help="so many test images, drawn by the seed; default: all")
    p.add_argument("--batch-size", type=int, default=256)
    p.add_argument("--seed", type=int, default=0, help="of the random numbers and of --limit")
    p.add_argument("--data-dir", help="folder of the data set; default: the run's")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--save-adversaries", action="store_true", help="also RUN_DIR/adversaries/ATTACK.npy")
    p.add_argument("--fresh", action="store_true", help="discard the batches of an interrupted evaluation")
    p.add_argument("--out", type=Path, help="JSON file, the others beside it; default: RUN_DIR/evaluation.json")
    p.add_argument("--compare", type=Path, nargs="+", metavar="RUN",
                   help="set evaluated runs side by side, in a table and in --out (default: comparison.html)")
    return p


def main(argv: list[str] | None = None) -> None:
    """The command line; raises UserError for wrong use."""
    args = parser().parse_args(argv)
    with launch.launched(TIMEOUT) as ranks:
        if ranks.size > 1:  # how torchrun ends the others when one has died: with a sentence, then
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        if not args.compare:
            evaluate_run(args, ranks)
        elif ranks.leads:
            compare(args)


def evaluate_run(args, ranks: Ranks) -> None:
    """Evaluate args.run_dir, as one of these processes; the first writes and prints."""
    if args.run_dir is None:
        raise UserError("name the folder of a run to evaluate, or runs to --compare")
    config, whole = read_config(args.run_dir)
    at_least_one(args.batch_size, "--batch-size")
    if args.limit is not None:
        at_least_one(args.limit, "--limit")
    plan, eps = planned(args, config)  # refuses a wrong name before anything is loaded
    device = choose_device(args.device)
    launch.check_device(str(device), ranks)
    output = Output.of(args.run_dir, args.out)
    model = load(args.run_dir).to(device)
    data = load_in_turn(args, config, device, ranks)
    x, y = test_images(data, whole, args.limit, args.seed)
    check_data(x, y)
    everything = {**plan, **(curve_plan(eps, args.norm) if args.curves else {})}
    if args.fresh and ranks.leads:
        shutil.rmtree(output.parts, ignore_errors=True)
    ranks.wait(device)
    parts = unfinished(output, args, everything, model, x, y)
    evaluation = Evaluation(model, x, y, args.batch_size, args.seed, args.save_adversaries, ranks.leads, parts, ranks)
    try:
        measured = measure(evaluation, plan, eps, args.norm, args.curves, with_distances=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on from here") from None
    if ranks.leads:
        report = {"dataset": config.dataset, "run": str(args.run_dir), "eps": eps, "norm": args.norm, "seed": args.seed,
                  **measured.report, "images": fingerprint(x, y), "device": str(device), "atlas_fast": __version__,
                  "torch": torch.__version__}
        write_all(output, report, measured, evaluation, whole.get("classes") or [])
        parts.remove(everything)
        print(table(report))
        print(f"written to {output.json}, with {output.per_sample.name} and {output.html.name} beside it")
    ranks.wait(device)  # whoever starts the processes may take the end of one for the end of all


def compare(args) -> None:
    """--compare: the table on the screen and as a page."""
    if args.run_dir is not None:
        raise UserError(f"--compare takes all the runs: --compare {args.run_dir} {' '.join(map(str, args.compare))}")
    comparison = side_by_side(args.compare)
    out = args.out or Path("comparison.html")
    writable(out)
    write_comparison(out, comparison)
    print(comparison_table(comparison))
    print(f"written to {out}")


def planned(args, config: Config) -> tuple[dict[str, Planned], float]:
    """({name: attack}, eps): what the options and the run's settings ask for."""
    if args.norm != "Linf":
        if args.epsilon is None:
            raise UserError(f"--norm {args.norm} needs --epsilon: the run's eps {config.eps:.4g} is a radius in Linf")
        eps, step_size = positive(args.epsilon, "--epsilon"), args.step_size and positive(args.step_size, "--step-size")
    else:
        eps, step_size = attack_settings(config, args.epsilon, args.step_size)
    surrogate = load(args.surrogate).to(choose_device(args.device)) if args.surrogate else None
    cache = args.transfer_cache or (args.surrogate and args.surrogate / "transfer")
    return create_suite(args.attacks, eps, step_size, norm=args.norm, any_step=args.any_step, dataset=config.dataset,
                        surrogate=surrogate, transfer_cache=cache, second_step=args.step_size is None,
                        batch_size=args.batch_size), eps


def attack_settings(config: Config, eps: float | None, step_size: float | None) -> tuple[float, float]:
    """(eps, PGD step size): given, or the run's; the run's step size keeps its ratio to eps when eps is another."""
    chosen = config.eps if eps is None else positive(eps, "--epsilon")
    if step_size is not None:
        return chosen, positive(step_size, "--step-size")
    return chosen, config.val_step_size if chosen == config.eps else config.val_step_size * chosen / config.eps


def load_in_turn(args, config: Config, device: torch.device, ranks: Ranks) -> Dataset:
    """The data set, first by the first process, so that one of them downloads it."""
    where = config.dataset, args.data_dir or config.data_dir, config.image_size, config.stream
    data = load_data(*where) if ranks.leads else None
    ranks.wait(device)
    return data or load_data(*where)


def unfinished(output: Output, args, plan: dict[str, Planned], model, x: torch.Tensor | ImageFiles,
               y: torch.Tensor) -> Parts:
    """Where batches are kept; UserError where some lie there that were made otherwise."""
    parts = Parts(output.parts, {
        "weights": model_fingerprint(model), "images": fingerprint(x, y), "batch_size": args.batch_size,
        "seed": args.seed, "save_adversaries": args.save_adversaries, "device": args.device,
        "atlas_fast": __version__, "torch": torch.__version__})
    for name, attack in plan.items():
        parts.check(name, attack.key)
    return parts


def choose_device(name: str) -> torch.device:
    """auto: cuda where there is one. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not available here; use auto, cpu, cuda or cuda:N") from None
    return device


def test_images(data: Dataset, whole: dict, limit: int | None,
                seed: int) -> tuple[torch.Tensor | ImageFiles, torch.Tensor]:
    """The test images and labels, or `limit` of them drawn by the seed (files may be sorted by class)."""
    for key, here in (("num_classes", data.num_classes), ("in_channels", data.in_channels),
                      ("image_pixels", data.image_size)):
        if whole[key] != here:
            raise UserError(f"the run was trained with {key} = {whole[key]}, but this {data.name} data has {here}; "
                            "give the run's data with --data-dir")
    chosen = torch.from_numpy(subset(len(data.test_labels), limit, seed))
    images = rows_of(data.test_images, chosen)
    if isinstance(images, ImageFiles) and images.nbytes <= IN_MEMORY:
        images = images[:]  # decoded once, not for every attack
    return images, data.test_labels[chosen]


class _CallableModule(ModuleType):
    """`import atlas_fast.evaluate` puts this module in the place of the function of that name; a call still works."""

    def __call__(self, *args, **kwargs):
        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    run_cli(main)
