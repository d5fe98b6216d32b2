"""Robust accuracy of a trained run on its data set's test images.

    python -m atlas_fast.evaluate RUN_DIR [--attacks pgd-20 pgd-100] [--step-size S] [--epsilon E] [--limit N]

Prints a table and writes the same as JSON (RUN_DIR/evaluation.json). The module is callable, so that
`atlas_fast.evaluate(model, x, y)` also works after `import atlas_fast.evaluate`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import torch

from . import __version__, ops
from .attacks.checks import at_least_one, positive
from .data import load as load_data
from .data.dataset import Dataset, permutation
from .errors import ArgumentParser, UserError, run_cli
from .evaluation import evaluate
from .evaluation.suite import create_attack
from .loading import load
from .training.config import Config, read_config
from .training.files import make_folder, write_json


def parser() -> ArgumentParser:
    p = ArgumentParser(prog="python -m atlas_fast.evaluate", description="Robust accuracy of a run on its test images.")
    p.add_argument("run_dir", type=Path, help="folder of a run of atlas_fast.train")
    p.add_argument("--attacks", nargs="+", default=["pgd-20"], metavar="NAME",
                   help="fgsm, pgd-K (K steps) or pgd-K-R (R restarts); default: pgd-20")
    p.add_argument("--epsilon", type=float, help="radius in pixel units ([0,1] images); default: the run's")
    p.add_argument("--step-size", type=float, help="of PGD, pixel units; default: that of the run's validation")
    p.add_argument("--limit", type=int, help="so many test images, drawn by the seed; default: all")
    p.add_argument("--batch-size", type=int, default=256)
    p.add_argument("--seed", type=int, default=0, help="of the random starts and of --limit")
    p.add_argument("--data-dir", help="folder of the data set; default: the run's")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--out", type=Path, help="JSON file; default: RUN_DIR/evaluation.json")
    return p


def main(argv: list[str] | None = None) -> None:
    """The command line; raises UserError for wrong use."""
    args = parser().parse_args(argv)
    config, whole = read_config(args.run_dir)
    eps, step_size = attack_settings(config, args.epsilon, args.step_size)
    for name in args.attacks:  # refuse a wrong name before anything is loaded
        create_attack(name, eps, step_size)
    at_least_one(args.batch_size, "--batch-size")
    if args.limit is not None:
        at_least_one(args.limit, "--limit")
    device = choose_device(args.device)
    out = args.out or args.run_dir / "evaluation.json"
    make_folder(out.parent)
    if out.is_dir():
        raise UserError(f"--out must be a file, but {out} is a folder")
    model = load(args.run_dir).to(device)
    data = load_data(config.dataset, args.data_dir or config.data_dir, config.image_size)
    x, y = test_images(data, whole, args.limit, args.seed)
    report = evaluate(model, x, y, args.attacks, eps, step_size, args.batch_size, args.seed)
    report = {"dataset": config.dataset, "run": str(args.run_dir), **report, "device": str(device),
              "atlas_fast": __version__, "torch": torch.__version__}
    write_json(out, report)
    print(table(report))
    print(f"written to {out}")


def attack_settings(config: Config, eps: float | None, step_size: float | None) -> tuple[float, float]:
    """(eps, PGD step size): given, or the run's; the run's step size keeps its ratio to eps when eps is another."""
    chosen = config.eps if eps is None else positive(eps, "--epsilon")
    if step_size is not None:
        return chosen, positive(step_size, "--step-size")
    return chosen, config.val_step_size if chosen == config.eps else config.val_step_size * chosen / config.eps


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


def test_images(data: Dataset, whole: dict, limit: int | None, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The test images and labels, or `limit` of them drawn by the seed (files may be sorted by class)."""
    x, y = data.test_images, data.test_labels
    for key, here in (("num_classes", data.num_classes), ("in_channels", data.in_channels),
                      ("image_pixels", data.image_size)):
        if whole[key] != here:
            raise UserError(f"the run was trained with {key} = {whole[key]}, but this {data.name} data has {here}; "
                            "give the run's data with --data-dir")
    if limit is None or limit >= len(y):
        return x, y
    chosen = permutation(len(y), seed, 0, ops.SHUFFLE)[:limit].sort().values
    return x[chosen], y[chosen]


def table(report: dict) -> str:
    """The report for a terminal."""
    rows = [("", "accuracy", "seconds", "settings"), ("clean", f"{report['clean_accuracy']:.2%}", "", "")]
    for name, result in report["attacks"].items():
        settings = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                             for key, value in result["settings"].items())
        rows.append((name, f"{result['robust_accuracy']:.2%}", f"{result['seconds']:.1f}", settings))
    width = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{width[0]}}  {b:>{width[1]}}  {c:>{width[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join([f"{report['dataset']}, {report['n']} test images", *lines])


class _CallableModule(ModuleType):
    """`import atlas_fast.evaluate` puts this module in the place of the function of that name; a call still works."""

    def __call__(self, *args, **kwargs):
        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    run_cli(main)
