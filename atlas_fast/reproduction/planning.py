"""From a table of the paper to the runs that fill it, shrunken where the user says so, and the sentences about it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError
from ..training.config import HAS, resolve
from ..training.defaults import DEFAULTS
from . import options, paper
from .campaign import devices, folder, seeds
from .runs import Run, is_transfer
from .specs import Plan, Row, attack_name, weights_text, with_attacks, with_neighbours, with_rows

_OF_THE_ROW = ("method", "steps", "alpha", "beta", "seed", "step_size")  # what tells one row from another
SURROGATE_SEED = 1000  # unlike that of any row, so that the surrogate shares no weights with one


@dataclass(frozen=True)
class Arranged:
    """runs: in the order in which they are to run, the surrogate first; runs_of: those of every row, one a seed;
    stem: path of the report's files without their endings; notes: sentences under it."""

    runs: tuple[Run, ...]
    runs_of: dict[Row, tuple[Run, ...]]
    stem: Path
    notes: tuple[str, ...]


def chosen(plan: Plan, rows: Sequence[str] | None, attacks: Sequence[str] | None,
           also: Sequence[str] | None = None) -> Plan:
    """The plan with these of its rows, these attacks, and rows for further methods."""
    if rows:
        plan = replace(plan, rows=with_rows(plan.rows, rows))
    if also:
        plan = replace(plan, rows=with_neighbours(plan.rows, also, plan.dataset))
    if attacks:
        model = DEFAULTS[plan.dataset].model
        named = [attack_name(attack, model) or attack for attack in attacks]  # "untargeted" is the paper's
        plan = replace(plan, columns=with_attacks(plan.columns, named, plan.part is not None))
    return plan


def arrange(plan: Plan, given: dict, args: argparse.Namespace) -> Arranged:
    """The runs of the plan with these training options for all. UserError: an option that the rows themselves set."""
    if wrong := next((key for key in given if key in _OF_THE_ROW), None):
        raise UserError(f"{options.flag(wrong)} is set by the rows of {plan.name}"
                        + ("; here it is --seeds" if wrong == "seed" else "; python -m atlas_fast.sweep varies it"))
    notes = _notes(plan, given, args)
    surrogate = _surrogate(plan, given, args)
    step_size = resolve({"dataset": plan.dataset, "eps": given.get("eps")}).val_step_size
    runs_of: dict[Row, list[Run]] = {row: [] for row in plan.rows}
    for seed in seeds(args.seeds):
        for row in plan.rows:
            whole = {"dataset": plan.dataset, **row.options, **_used(given, row.options["method"]), "seed": seed}
            runs_of[row].append(Run(row.label, whole, folder(whole, args.out), plan.attacks, args.limit, step_size,
                                    surrogate.folder if isinstance(surrogate, Run) else surrogate))
    by_seed = [run for of_seed in zip(*runs_of.values(), strict=True) for run in of_seed]
    first = [surrogate] if isinstance(surrogate, Run) else []
    changed = {key: value for key, value in given.items() if key not in options.PLACE}
    changes = [f"{options.flag(key).lstrip('-')}={options.text(value)}" for key, value in sorted(changed.items())]
    stem = args.out / "-".join([plan.name, _where(plan, given), *changes])
    return Arranged((*first, *by_seed), {row: tuple(runs) for row, runs in runs_of.items()}, stem, tuple(notes))


def _where(plan: Plan, given: dict) -> str:
    """The data set as part of a file's name; for npz and imagefolder the file or folder names it."""
    if plan.dataset in ("npz", "imagefolder") and "data_dir" in given:
        return f"{plan.dataset}-{Path(given['data_dir']).stem}"
    return plan.dataset


def _used(given: dict, method: str) -> dict:
    """Without what this method would refuse because it has no use for it."""
    unused = {"num_projections"} if method not in HAS.get("num_projections", HAS["alpha"]) else set()
    if method in ("plain", "jac"):
        unused.add("ramp_epochs")
    return {key: value for key, value in given.items() if key not in unused}


def _surrogate(plan: Plan, given: dict, args: argparse.Namespace) -> Run | Path | None:
    """The run on which "transfer" crafts: the user's, else the same network trained plainly; None: nothing crafts."""
    if not any(map(is_transfer, plan.attacks)):
        if args.surrogate:
            raise UserError("--surrogate is for the black-box attack, which is not among the attacks here")
        return None
    if args.surrogate:
        return args.surrogate
    whole = {"dataset": plan.dataset, "method": "plain", "steps": 0, **_used(given, "plain"), "seed": SURROGATE_SEED}
    return Run("surrogate, plain training", whole, folder(whole, args.out))


def _notes(plan: Plan, given: dict, args: argparse.Namespace) -> list[str]:
    """What the runs are, and whatever is not as in the paper."""
    standard, notes = resolve({"dataset": plan.dataset}), []
    if "data_dir" in given and plan.dataset in ("npz", "imagefolder"):
        notes.append(f"Images: {given['data_dir']}.")
    weights = [(row.label, weights_text(row.options)) for row in plan.rows if weights_text(row.options)]
    if weights and plan.name.startswith("table"):
        notes.append(f"Weights: {'; '.join(f'{label}: {text}' for label, text in weights)}.")
    changed = [f"{options.flag(key).lstrip('-')} {options.text(value)}{_default(standard, key)}"
               for key, value in given.items() if key not in options.PLACE]
    if changed:
        notes.append(f"Changed for all rows: {'; '.join(changed)}.")
    guided = "" if given.get("schedule") == "fixed" else "the learning rate guided and "
    notes.append(f"{'Otherwise t' if changed else 'T'}he settings are the defaults of {plan.dataset}"
                 + (", those of appendix B" if plan.dataset in paper.PARTS else "")
                 + f": {standard.model}, at most {standard.epochs} epochs, {guided}the best epoch chosen by the robust "
                 "accuracy of the validation.")
    if args.limit is not None and plan.attacks:
        notes.append(f"Evaluated on {args.limit} test images drawn by seed 0, the same for all rows.")
    for column in plan.columns:
        wanted = attack_name(column.key, standard.model)
        if column.in_paper and column.attack and column.attack != wanted:
            notes.append(f"{column.title} is `{column.attack}`, in the paper `{wanted}`.")
    if any(map(is_transfer, plan.attacks)):
        crafted = f"on {args.surrogate}" if args.surrogate else (
            f"on the same network trained plainly (seed {SURROGATE_SEED}), the same adversaries for all rows")
        notes.append(f"Black box: adversaries crafted {crafted}; the paper does not say what its surrogates are.")
    if (args.jobs or 1) > len(devices(args.device)):
        notes.append(f"The times are those of runs that shared the machine, {args.jobs} at a time.")
    return notes


def _default(standard, key: str) -> str:
    chosen = getattr(standard, key, None)
    return "" if chosen is None else f" instead of {options.text(chosen)}"
