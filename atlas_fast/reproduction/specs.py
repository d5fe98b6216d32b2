"""What the paper's tables are made of: rows with their training options (appendix B), columns with their attacks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import UserError
from ..training.config import resolve
from ..training.defaults import DEFAULTS
from . import paper

NAMES = {"jac": "JAC", "adv": "ADV", "trades": "TRADES", "atlas": "ATLAS", "atlas_l": "ATLAS-l", "atlas_g": "ATLAS-g",
         "tradesjac": "TradesJac", "plain": "plain", "n_fgsm": "N-FGSM", "mart": "MART", "nuat": "NuAT",
         "grad_align": "GradAlign", "llr": "LLR", "free": "Free", "fat": "FAT", "yopo": "YOPO"}
_COUNT = {0: "zero", 1: "one", 5: "five", 10: "ten", 20: "twenty"}
_ONE_STEP = ("adv", "trades", "atlas")


@dataclass(frozen=True)
class Row:
    """options: of `train`, the data set's apart. x: where a figure's point lies; series: the line that it belongs to.
    paper: the row of the paper's tables with the same settings."""

    label: str
    options: dict = field(hash=False)
    x: float | None = None
    series: str = ""
    paper: str | None = None


@dataclass(frozen=True)
class Column:
    """key: as in `paper.COLUMNS`; attack: what `evaluate` runs for it, None: nothing."""

    key: str
    title: str
    attack: str | None = None
    in_paper: bool = True


@dataclass(frozen=True)
class Plan:
    """A table or a figure on a data set. part: whose figures of the paper, from `table`, stand beside it; axis:
    what a figure's points lie along."""

    name: str
    title: str
    dataset: str
    part: str | None
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    table: str | None = None
    axis: str = ""
    log_axis: bool = False

    @property
    def attacks(self) -> tuple[str, ...]:
        return tuple(column.attack for column in self.columns if column.attack)


def row(method: str, steps: int, dataset: str, **more) -> Row:
    """The method with the paper's settings for the data set, alpha and beta written out."""
    chosen = DEFAULTS[dataset].weights[method][steps > 1]
    label = f"{_COUNT.get(steps, steps)}-step {NAMES[method]}"
    return Row(label, {"method": method, "steps": steps, **chosen, **more}, paper=label)


def table(name: str, dataset: str, part: str | None) -> Plan:
    """Table 1 to 5 on this data set; part: of the paper (see `Plan`)."""
    many = DEFAULTS[dataset].val_steps  # the multi-step methods' steps: 20 on MNIST, 10 on CIFAR
    one_step = [row(method, 1, dataset) for method in _ONE_STEP]
    multi_step = [row(method, many, dataset) for method in _ONE_STEP]
    if name == "table1":
        five = [row("adv", 5, dataset)] if many > 5 and dataset not in ("mnist", "digits") else []
        rows = [row("jac", 0, dataset), *one_step, *five, *multi_step]
    elif name == "table2":
        rows = [*one_step[:2], row("atlas_l", 1, dataset), row("atlas_g", 1, dataset), one_step[2]]
    elif name == "table3":
        rows = [*one_step, row("tradesjac", 1, dataset)]
    else:
        rows = [row("jac", 0, dataset), *one_step, row("tradesjac", 1, dataset), *multi_step]
    return Plan(name, f"Table {name[-1]} of the paper", dataset, part, tuple(rows), columns(name, dataset, part), name)


def columns(name: str, dataset: str, part: str | None) -> tuple[Column, ...]:
    """The table's columns with the attacks at the paper's settings, time per batch at the end."""
    keys = list(paper.COLUMNS[name])
    if part == "cifar100" and name != "table2":
        keys = [key for key in keys if key != "multitargeted"]  # "due to the large number of classes"
    if name == "table2" and part is not None:
        keys.remove("multitargeted" if part == "cifar100" else "untargeted")
    if "clean" not in keys:
        keys.insert(0, "clean")  # tables 4 and 5 leave it out; it costs nothing
    found = [Column(key, paper.TITLES[key], attack_name(key, DEFAULTS[dataset].model)) for key in keys]
    if dataset == "mnist" and "pgd-20" in keys:
        # 20 steps of 0.01 cannot cross MNIST's ball of 0.3, so an attack that can stands beside the paper's.
        extra = Column("pgd-100@eps/10", "PGD-100, step ε/10", "pgd-100@eps/10", in_paper=False)
        found.insert(-1 if keys[-1] == "time" else len(found), extra)
    return tuple(found)


def attack_name(key: str, model: str) -> str | None:
    """The attack of a column with its steps and restarts written out (section 6, appendix D.2)."""
    small = model == "small_cnn"
    return {"clean": None, "time": None, "transfer": "transfer-1000", "rays": "rays-40000",
            "untargeted": "untargeted-50-20" if small else "untargeted-100-10",
            "multitargeted": "multitargeted-50-20" if small else "multitargeted-20-5"}.get(key, key)


def with_attacks(plan_columns: Sequence[Column], attacks: Sequence[str], keep: bool) -> tuple[Column, ...]:
    """The columns with these attacks in place of their own; those that belong to none get a column before the time.
    keep: a column whose attack is not named stays, for the paper's figures."""
    by_key: dict[str, str] = {}
    for attack in attacks:
        base = re.match(r"untargeted|multitargeted|transfer|rays|autoattack", attack)
        key = base[0] if base and "@" not in attack else attack
        if key in by_key:
            raise UserError(f"--attacks {by_key[key]} and {attack} belong into one column; name one of them")
        by_key[key] = attack
    kept = [Column(column.key, column.title, by_key.pop(column.key, None), column.in_paper) for column in plan_columns
            if column.key in by_key or column.key in ("clean", "time") or (keep and column.in_paper)]
    others = [Column(key, attack, attack, in_paper=False) for key, attack in by_key.items()]
    at = len(kept) - (bool(kept) and kept[-1].key == "time")
    return (*kept[:at], *others, *kept[at:])


def with_rows(rows: Sequence[Row], wanted: Sequence[str]) -> tuple[Row, ...]:
    """The rows of these names, written as in the table or one-step-adv. UserError: a name that is no row."""
    by_name = {_plain(one.label): one for one in rows}
    for name in wanted:
        if _plain(name) not in by_name:
            raise UserError(f"no row is called {name!r}; the rows: {', '.join(by_name)}")
    chosen = {_plain(name) for name in wanted}
    return tuple(one for name, one in by_name.items() if name in chosen)


def with_neighbours(rows: Sequence[Row], methods: Sequence[str], dataset: str) -> tuple[Row, ...]:
    """The rows, and one for each of these methods with its authors' settings. UserError: one that has a row already."""
    found = list(rows)
    for method in methods:
        settings = resolve({"dataset": dataset, "method": method})
        if settings.method == "plain":
            raise UserError("--also plain: plain training withstands nothing, so no attack of the table says anything")
        weights = {key: value for key in ("alpha", "beta") if (value := getattr(settings, key)) is not None}
        options = {"method": method, "steps": settings.steps, **weights}
        label = f"{_COUNT.get(settings.steps, settings.steps)}-step {NAMES[method]}"
        if any(row.label == label for row in found):
            raise UserError(f"--also {method}: the table has a row of {label} already")
        found.append(Row(label, options))
    return tuple(found)


def weights_text(given: dict) -> str:
    """"α 0.0002, β 5" of the options that hold them."""
    return ", ".join(f"{symbol} {given[key]:g}" for key, symbol in (("alpha", "α"), ("beta", "β")) if key in given)


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", "-", label.lower())
