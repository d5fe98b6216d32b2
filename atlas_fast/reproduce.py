"""The tables and figures of the paper: every row trained and evaluated, the paper's figure beside ours.

    python -m atlas_fast.reproduce table1 --dataset mnist --seeds 0,1,2
    python -m atlas_fast.reproduce figure5 --epochs 10 --limit 1000 --model wrn-16-2
    python -m atlas_fast.reproduce table1 --dataset mnist --schedule fixed --epochs 70

table1 ... table5, figure4 ... figure17. Finished runs are skipped and interrupted ones go on; tables and figures share
the runs that they have in common. OUT receives NAME-DATASET.md, .json and
.png (a figure, or the trainings behind a table), and OUT/runs the runs.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import UserError, run_cli
from .reproduction import campaign, options, paper, planning, plots, report
from .reproduction.figures import FIGURES, figure
from .reproduction.specs import Plan, table
from .training import logs
from .training.defaults import DEFAULTS

_DATASETS = {"table4": "cifar10", "table5": "cifar100"}  # the others have several parts


def main(argv: list[str] | None = None) -> int:
    """Returns 1 where a run failed. UserError: wrong use, nothing was run."""
    p = campaign.parser("python -m atlas_fast.reproduce", __doc__.split(":")[0] + ".", "runs/reproduce")
    p.add_argument("what", metavar="NAME", help="table1 ... table5, figure4 ... figure17")
    p.add_argument("--dataset", metavar="NAME", help="mnist, cifar10 or cifar100; any other as a trial")
    p.add_argument("--beside", metavar="PART", help="the part of the paper to set beside another data set: mnist, "
                                                    "cifar10 or cifar100")
    p.add_argument("--rows", nargs="+", metavar="ROW", help="only these, as one-step-adv (default: all)")
    p.add_argument("--also", nargs="+", metavar="METHOD", help="further rows with their authors' settings: n_fgsm mart "
                                                               "nuat grad_align llr free fat yopo")
    args, rest = p.parse_known_args(argv)
    plan = planning.chosen(named(args.what, args.dataset, args.beside), args.rows, args.attacks, args.also)
    everything = planning.arrange(plan, options.parse(rest), args)

    def write() -> str:
        found = report.collect(plan, everything.runs_of, everything.notes)
        logs_of_runs = _logs(plan, everything)
        if plan.name == "figure11":
            found["logs"] = logs_of_runs
        text = report.write(found, everything.stem)
        return f"{text}\n{_picture(plan, {**found, 'logs': logs_of_runs}, everything.stem)}{everything.stem}.md"

    return campaign.carry_out(everything.runs, args, write)


def named(what: str, dataset: str | None, beside: str | None) -> Plan:
    """The table or figure of that name on this data set. UserError: there is none."""
    match = re.fullmatch(r"(table|figure)(\d+)", what)
    number = int(match[2]) if match else 0
    if not match or (what not in paper.TABLES if match[1] == "table" else number not in FIGURES):
        raise UserError(f"there is nothing called {what!r} to reproduce; known are {', '.join(paper.TABLES)} and "
                        f"{', '.join(f'figure{number}' for number in FIGURES)}")
    default = FIGURES[number][0] if match[1] == "figure" else _DATASETS.get(what)
    dataset = dataset or default
    if dataset is None:
        raise UserError(f"{what} has a part for each of {', '.join(paper.TABLES[what])}; name one with --dataset")
    if dataset not in DEFAULTS:
        raise UserError(f"--dataset must be one of {', '.join(DEFAULTS)}, not {dataset!r}")
    if beside is not None and beside not in paper.PARTS:
        raise UserError(f"--beside must be one of {', '.join(paper.PARTS)}, not {beside!r}")
    part = beside or (dataset if dataset in paper.PARTS else None)
    return table(what, dataset, part) if match[1] == "table" else figure(number, dataset, part)


def _logs(plan: Plan, everything: planning.Arranged) -> list[dict]:
    """The lines of log.jsonl of every run that has begun: the numbers of figure 11, and of the picture of a table."""
    found = [{"label": f"{row.label}, seed {run.seed}", "lines": logs.read(run.folder / "log.jsonl")}
             for row in plan.rows for run in everything.runs_of[row]]
    return [one for one in found if one["lines"]]


def _picture(plan: Plan, found: dict, stem: Path) -> str:
    """Draw a figure, or a table's trainings, as far as the runs have got. Returns its path, a line."""
    path = stem.with_name(stem.name + ".png")
    if plan.name == "figure11" and found["logs"]:
        plots.overfitting(found, path)
    elif plan.name.startswith("table") and found["logs"]:
        plots.training(found, path)
    elif plan.axis and any(cell["ours"] for row in found["rows"] for cell in row["cells"].values()):
        plots.sweep(found, path, plan.log_axis)
    else:
        return ""
    return f"{path}\n"


if __name__ == "__main__":
    run_cli(main)
