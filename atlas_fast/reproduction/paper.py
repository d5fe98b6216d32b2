"""Every figure of the paper's tables, and nowhere else: accuracies in %, times in seconds per batch.

`tests/reproduction/test_paper.py` compares this file with the paper's text cell by cell.
"""

from __future__ import annotations

from ..errors import UserError

PARTS = ("mnist", "cifar10", "cifar100")

# Columns by these keys; those of attacks are names that `evaluate` knows.
_ALL = ("clean", "transfer", "pgd-20", "pgd-1000", "untargeted", "multitargeted", "time")
COLUMNS = {
    "table1": _ALL,
    "table2": ("clean", "untargeted", "multitargeted", "time"),
    "table3": _ALL,
    "table4": ("rays", "autoattack"),
    "table5": ("rays", "autoattack"),
}
TITLES = {"clean": "Clean", "transfer": "Black box", "pgd-20": "PGD-20", "pgd-1000": "PGD-1000", "untargeted": "Un-T",
          "multitargeted": "Multi-T", "rays": "RayS", "autoattack": "AutoAttack", "time": "Time per batch"}

# table -> part -> row -> figures in the order of COLUMNS; None: "-" in the paper.
TABLES: dict[str, dict[str, dict[str, tuple[float | None, ...]]]] = {
    "table1": {
        "mnist": {
            "zero-step JAC": (98.34, 89.84, 58.09, 2.48, 28.83, 28.72, 0.012),
            "one-step ADV": (99.49, 96.26, 96.29, 83.25, 91.02, 90.62, 0.009),
            "one-step TRADES": (99.40, 96.21, 96.28, 83.05, 90.66, 90.02, 0.016),
            "one-step ATLAS": (99.47, 96.36, 96.84, 89.56, 92.44, 92.04, 0.018),
            "twenty-step ADV": (99.48, 96.40, 97.16, 92.32, 93.01, 92.87, 0.077),
            "twenty-step TRADES": (99.49, 96.21, 97.01, 90.51, 92.49, 92.21, 0.097),
            "twenty-step ATLAS": (99.44, 96.45, 97.19, 92.20, 93.03, 92.74, 0.086),
        },
        "cifar10": {
            "zero-step JAC": (63.24, 60.45, 34.40, 34.34, 31.13, 30.32, 0.47),
            "one-step ADV": (86.24, 82.53, 45.73, 44.98, 45.14, 42.97, 0.25),
            "one-step TRADES": (86.84, 82.63, 40.03, 39.41, 39.31, 38.14, 0.55),
            "one-step ATLAS": (84.52, 81.06, 49.01, 48.59, 48.54, 46.55, 0.73),
            "ten-step ADV": (84.77, 82.53, 50.60, 50.22, 49.74, 47.96, 1.38),
            "ten-step TRADES": (84.01, 82.63, 52.70, 52.45, 50.29, 49.66, 2.02),
            "ten-step ATLAS": (82.94, 81.06, 53.45, 53.10, 51.51, 50.16, 1.88),
        },
        "cifar100": {
            "zero-step JAC": (47.96, 44.67, 15.39, 15.18, 14.35, None, 0.47),
            "one-step ADV": (48.88, 45.59, 19.89, 19.72, 19.04, None, 0.25),
            "one-step TRADES": (62.58, 57.64, 16.93, 16.21, 14.83, None, 0.53),
            "one-step ATLAS": (60.98, 57.04, 26.30, 25.94, 26.28, None, 0.73),
            "ten-step ADV": (60.72, 58.15, 27.71, 27.43, 26.83, None, 1.37),
            "ten-step TRADES": (59.76, 57.78, 26.27, 26.10, 23.86, None, 2.00),
            "ten-step ATLAS": (59.62, 57.83, 29.12, 28.89, 27.77, None, 1.87),
        },
    },
    "table2": {
        "cifar10": {
            "one-step ADV": (86.24, None, 42.97, 0.25),
            "one-step TRADES": (86.84, None, 38.14, 0.55),
            "one-step ATLAS-l": (85.24, None, 44.46, 0.60),
            "one-step ATLAS-g": (82.07, None, 44.43, 0.38),
            "one-step ATLAS": (84.52, None, 46.55, 0.73),
        },
        "cifar100": {
            "one-step ADV": (48.88, 19.04, None, 0.25),
            "one-step TRADES": (62.58, 14.83, None, 0.53),
            "one-step ATLAS-l": (58.46, 24.73, None, 0.60),
            "one-step ATLAS-g": (51.88, 19.71, None, 0.37),
            "one-step ATLAS": (60.98, 26.28, None, 0.73),
        },
    },
    "table3": {
        "cifar10": {
            "one-step ADV": (86.24, 82.53, 45.73, 44.98, 45.14, 42.97, 0.25),
            "one-step TRADES": (86.84, 82.63, 40.03, 39.41, 39.31, 38.14, 0.55),
            "one-step ATLAS": (84.52, 81.06, 49.01, 48.59, 48.54, 46.55, 0.73),
            "one-step TradesJac": (84.38, 81.54, 46.04, 45.75, 44.60, 43.59, 1.14),
        },
        "cifar100": {
            "one-step ADV": (48.88, 45.59, 19.89, 19.72, 19.04, None, 0.25),
            "one-step TRADES": (62.58, 57.64, 16.93, 16.21, 14.83, None, 0.53),
            "one-step ATLAS": (60.98, 57.04, 26.30, 25.94, 26.28, None, 0.73),
            "one-step TradesJac": (58.15, 54.56, 21.22, 20.89, 19.78, None, 1.15),
        },
    },
    "table4": {
        "cifar10": {
            "zero-step JAC": (33.50, 30.03),
            "one-step ADV": (50.20, 42.49),
            "one-step TRADES": (45.10, 37.74),
            "one-step ATLAS": (52.70, 46.16),
            "one-step TradesJac": (50.20, 43.16),
            "ten-step ADV": (54.40, 47.56),
            "ten-step TRADES": (54.00, 49.40),
            "ten-step ATLAS": (53.20, 49.82),
        },
    },
    "table5": {
        "cifar100": {
            "zero-step JAC": (16.70, 11.85),
            "one-step ADV": (19.90, 17.17),
            "one-step TRADES": (19.50, 12.75),
            "one-step ATLAS": (28.60, 23.42),
            "one-step TradesJac": (22.60, 17.99),
            "ten-step ADV": (29.80, 24.64),
            "ten-step TRADES": (28.20, 22.78),
            "ten-step ATLAS": (30.60, 25.77),
        },
    },
}

# Section 6 gives these of table 1's experiment in its text only.
TEXT = {("cifar10", "five-step ADV"): {"multitargeted": 44.93, "time": 0.75},
        ("cifar100", "five-step ADV"): {"untargeted": 25.21, "time": 0.75}}

_REPEATED = "the paper repeats the one-step row's black-box figure here, probably a slip: no target"
_STRONGER = ("in the paper Un-T leaves more images than PGD-1000 here, unlike in its other rows on CIFAR, ten restarts "
             "and any step counting")
# (part, row, column) -> why the paper's figure is doubted.
SUSPECT = {**{("cifar10", f"ten-step {method}", "transfer"): _REPEATED for method in ("ADV", "TRADES", "ATLAS")},
           ("cifar10", "one-step ADV", "untargeted"): _STRONGER,
           ("cifar100", "one-step ATLAS", "untargeted"): _STRONGER}


def figure(table: str, part: str | None, row: str, column: str) -> float | None:
    """The paper's figure of this cell: % or seconds; None where it has none (also for a part or a row of ours)."""
    if table not in TABLES:
        raise UserError(f"the paper has no {table}; its tables are {', '.join(TABLES)}")
    part = part or ""
    if table == "table1" and (part, row) in TEXT:
        return TEXT[part, row].get(column)
    figures = TABLES[table].get(part, {}).get(row)
    columns = COLUMNS[table]
    return None if figures is None or column not in columns else figures[columns.index(column)]


def suspect(part: str | None, row: str, column: str) -> str | None:
    """Why the paper's figure of this cell is doubted, or None."""
    return SUSPECT.get((part or "", row, column))
