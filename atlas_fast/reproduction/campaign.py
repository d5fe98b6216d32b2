"""What `sweep` and `reproduce` share: their common options, the checks before any time is spent, and the way of a
sweep from its runs to its report."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .. import data, models
from ..errors import ArgumentParser, UserError
from ..evaluation.suite import create_suite
from . import cost, options
from .execute import execute
from .progress import Progress
from .runs import Run, check, is_transfer, next_stage


def parser(prog: str, description: str, default_out: str) -> ArgumentParser:
    """A parser with the options that both have; what it does not know are options of `train`."""
    p = ArgumentParser(prog=prog, description=description, allow_abbrev=False,
                       epilog="Every other option is one of python -m atlas_fast.train and holds for all runs.")
    p.add_argument("--seeds", nargs="+", default=["0"], metavar="S", help="0,1,2 or 0 1 2: a run for each (default: 0)")
    p.add_argument("--attacks", nargs="+", metavar="NAME", help="for python -m atlas_fast.evaluate, which lists them")
    p.add_argument("--limit", type=int, metavar="N", help="so many test images, the same for all runs (default: all)")
    p.add_argument("--surrogate", type=Path, metavar="RUN", help="the run whose network crafts for transfer")
    p.add_argument("--jobs", type=int, metavar="N", help="so many at a time (default: one on each device)")
    p.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N, several as cuda:0,cuda:1")
    p.add_argument("--out", type=Path, default=Path(default_out), metavar="DIR",
                   help=f"folder of the runs and the report (default: {default_out}); finished runs in it are kept")
    p.add_argument("--only-report", action="store_true", help="draw the report of what is finished, run nothing")
    p.add_argument("--dry-run", action="store_true", help="print the runs, their commands and an estimate, run nothing")
    return p


def seeds(words: Sequence[str]) -> list[int]:
    """UserError: not whole numbers from 0, or one twice."""
    found = [word for several in words for word in several.split(",") if word]
    if not found or not all(re.fullmatch(r"\d{1,18}", word) for word in found):
        raise UserError(f"--seeds takes whole numbers from 0, as in 0,1,2, not {' '.join(words)!r}")
    if len(set(found)) < len(found):
        raise UserError(f"--seeds {' '.join(words)} names a seed twice")
    return [int(word) for word in found]


def devices(text: str) -> list[str]:
    found = [name for name in text.split(",") if name]
    if not found or len(set(found)) < len(found):
        raise UserError(f"--device takes one name or several different ones, as in cuda:0,cuda:1, not {text!r}")
    return found


def carry_out(runs: Sequence[Run], args: argparse.Namespace, report: Callable[[], str]) -> int:
    """Check everything, run what is not finished, report. Returns 1 where a run failed.

    report: writes the report of what is finished and returns it as text. UserError: wrong use, nothing was run."""
    where = devices(args.device)
    jobs = len(where) if args.jobs is None else args.jobs
    if jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {args.jobs}")
    check_runs(runs, where)
    if args.dry_run:
        print(dry_run(runs, jobs, where))
        return 0
    if args.only_report:
        print(report())
        return 0
    load_data(runs)
    try:
        failed = _run(runs, jobs, where)
    except KeyboardInterrupt:
        report()
        raise KeyboardInterrupt("interrupted; the same command goes on from here") from None
    print(f"\n{report()}")
    for run, why in failed.items():
        print(f"failed: {run}: {why} (all of it: {run.folder / 'output.txt'})")
    return 1 if failed else 0


def check_runs(runs: Sequence[Run], where: Sequence[str]) -> None:
    """UserError, in one sentence, for whatever can be known to be wrong before anything runs."""
    for device in where:
        options_of = {**runs[0].options, "device": device}
        Run(runs[0].label, options_of, runs[0].folder).config  # noqa: B018  refuses a device that is not there
    folders: dict[Path, Run] = {}
    for run in runs:
        if folders.setdefault(run.folder, run) is not run:
            raise UserError(f"{folders[run.folder]} and {run} are the same run; name it once")
        check(run)
        _check_model(run)
        _check_attacks(run, folders)


def _check_model(run: Run) -> None:
    with torch.device("meta"):
        models.create(run.config.model, 10)


def _check_attacks(run: Run, folders: dict[Path, Run]) -> None:
    config = run.config
    if run.limit is not None and run.limit < 1:
        raise UserError(f"--limit must be 1 or more, not {run.limit}")
    create_suite(run.attacks, config.eps, run.step_size, dataset=config.dataset, surrogate=torch.nn.Identity())
    if any(map(is_transfer, run.attacks)):
        if run.surrogate is None:
            raise UserError("transfer needs a surrogate: the run whose network crafts the adversaries "
                            "(--surrogate RUN)")
        if run.surrogate not in folders and not (run.surrogate / "summary.json").is_file():
            raise UserError(f"--surrogate {run.surrogate} is not the folder of a finished run")


def load_data(runs: Sequence[Run]) -> None:
    """Read every data set once: files that are missing are told now, and a download happens once."""
    wanted = {(config.dataset, config.data_dir, config.image_size) for config in (run.config for run in runs
                                                                                  if next_stage(run))}
    for one in sorted(wanted, key=str):
        data.load(*one)


def dry_run(runs: Sequence[Run], jobs: int, where: Sequence[str]) -> str:
    """Every run with its commands, and an estimate of the time."""
    lines, rates, seconds, finished = [], dict[tuple, float](), 0.0, 0
    for run in runs:
        stage = next_stage(run)
        if stage is None:
            finished += 1
            lines.append(f"{run}: finished; {run.folder}")
            continue
        config = run.config
        device = torch.device(Run(run.label, {**run.options, "device": where[0]}, run.folder).config.device)
        key = (config.model, config.dataset)
        rates[key] = rates.get(key) or cost.seconds_per_pass(config, device)
        needed = rates[key] * max(0.0, cost.total(run) - cost.done(run))
        seconds += needed
        what = f"then {', '.join(run.attacks)}" if run.attacks and stage.name == "training" else ""
        lines += [f"{run}: about {cost.duration(needed)}; {stage.name} {what}".rstrip(),
                  f"  {shlex.join(stage.command)}"]
    measured = ", ".join(f"{model} on {dataset}: {1e6 * rate:.3g} µs" for (model, dataset), rate in rates.items())
    lines.append(f"{len(runs)} runs, {finished} of them finished; at most about {cost.duration(seconds / jobs)} with "
                 f"{jobs} at a time" + (f" (a pass of one image, measured here in float32: {measured})" if measured
                                        else ""))
    return "\n".join(lines)


def _run(runs: Sequence[Run], jobs: int, where: Sequence[str]) -> dict[Run, str]:
    """`execute`, ended by SIGTERM and SIGHUP as by Ctrl-C, so that no child is left behind."""
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    progress = Progress(runs)
    try:
        return execute(runs, jobs, [None if name == "auto" else name for name in where], progress)
    finally:
        progress.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def folder(given: dict, out: Path) -> Path:
    """Where a run with these options lives."""
    return out / "runs" / options.folder_name(given)
