"""A grid or a list of trainings, each in a process and a folder of its own, and a table of their results.

    python -m atlas_fast.sweep --dataset digits --grid alpha=1e-4,1e-3 beta=1,5 --seeds 0,1 --attacks pgd-20
    python -m atlas_fast.sweep --list runs.toml --jobs 2

Every option of `python -m atlas_fast.train` may stand on the command line (for all runs), in --grid and in --list.
Finished runs are skipped and interrupted ones go on, so the same command always brings the sweep on. OUT receives
results.md, results.json and results.csv, and the runs' folders under OUT/runs.
"""

from __future__ import annotations

from pathlib import Path

from .errors import UserError, run_cli
from .reproduction import campaign, grid, options, sweep_table
from .reproduction.runs import Run
from .training.defaults import TEST_STEPS


def main(argv: list[str] | None = None) -> int:
    """Returns 1 where a run failed. UserError: wrong use, nothing was run."""
    p = campaign.parser("python -m atlas_fast.sweep", __doc__.split("\n")[0], "runs/sweep")
    p.add_argument("--grid", nargs="+", default=[], metavar="NAME=V,V", help="all combinations of these values")
    p.add_argument("--list", type=Path, metavar="FILE", help="JSON or TOML: {common = {...}, runs = [{...}, ...]}")
    args, rest = p.parse_known_args(argv)
    common = options.parse(rest)
    if "seed" in common:
        raise UserError(f"--seed is for one run; here it is --seeds {common['seed']}")
    if args.limit is not None and not args.attacks:
        raise UserError("--limit is for the attacks of --attacks; without them the test of training itself is shown")
    rows = settings(args, common)
    runs = plan(rows, args)
    varied = [key for key in dict.fromkeys(key for row in rows for key in row if key != "name")
              if len({str(row.get(key)) for row in rows}) > 1]
    attacks = args.attacks or [f"pgd-{TEST_STEPS}"]

    def write() -> str:
        return sweep_table.write(sweep_table.collect(runs, varied, attacks), args.out)

    return campaign.carry_out(runs, args, write)


def settings(args, common: dict) -> list[dict]:
    """The options of every row, without seeds. UserError: none, or an option that is given twice."""
    if args.list and args.grid:
        raise UserError("give --grid or --list, not both")
    rows = grid.read_list(args.list) if args.list else grid.product(args.grid)
    twice = sorted({key for row in rows for key in row} & set(common))
    if twice:
        raise UserError(f"{options.flag(twice[0])} is given for all runs and varied as well; leave one away")
    if any("seed" in row for row in rows):
        raise UserError("seeds are given by --seeds, so that their runs come together in one row")
    return [{key: value for key, value in {**common, **row}.items() if value is not None} for row in rows]


def plan(rows: list[dict], args) -> list[Run]:
    """Every row with every seed, the first seed of all rows first."""
    labelled = [(row.get("name", "run"), {"dataset": "digits", "method": "atlas", **{
        key: value for key, value in row.items() if key != "name"}, "seed": seed})
        for seed in campaign.seeds(args.seeds) for row in rows]
    return [Run(label, given, campaign.folder(given, args.out), tuple(args.attacks or ()), args.limit, None,
                args.surrogate) for label, given in labelled]


if __name__ == "__main__":
    run_cli(main)
