"""The paper's figures 4 to 17. It prints no grid and no figures for them; the grids here are this package's choice,
written down in docs/paper-gaps.md with the reasons."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UserError
from ..training.defaults import DEFAULTS
from . import paper
from .specs import Column, Plan, Row, attack_name, row, weights_text

# For CIFAR. Each holds the value of table 1; on another data set all are multiplied by its value over CIFAR-10's.
ALPHAS = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
BETAS = (1.0, 2.0, 5.0, 8.0, 10.0)
JAC_ALPHAS = (0.05, 0.1, 0.2, 0.5, 1.0)
ATLAS_ALPHAS = (1e-4, 2e-4, 4e-4)
ATLAS_BETAS = (2.0, 5.0, 10.0)
STEP_SIZES = (1.25, 1.5, 1.8)  # in units of eps; these the paper names
PLATEAUS = (2, 4)

# figure -> (the paper's data set, what it shows)
FIGURES = {
    4: ("cifar10", "one-step ADV at different step sizes and plateau epochs"),
    5: ("cifar10", "one-step ATLAS-l at different α"), 6: ("cifar10", "one-step ATLAS-g at different β"),
    7: ("cifar100", "one-step ATLAS-l at different α"), 8: ("cifar100", "one-step ATLAS-g at different β"),
    9: ("cifar10", "one-step ATLAS-g against one-step TRADES"),
    10: ("cifar100", "one-step ATLAS-g against one-step TRADES"),
    11: ("cifar10", "training with and without catastrophic overfitting"),
    12: ("cifar10", "zero-step JAC at different α"), 13: ("cifar100", "zero-step JAC at different α"),
    14: ("cifar10", "one-step TRADES at different β"), 15: ("cifar100", "one-step TRADES at different β"),
    16: ("cifar10", "one-step ATLAS at different α, β"), 17: ("cifar100", "one-step ATLAS at different α, β"),
}


def figure(number: int, dataset: str, part: str | None) -> Plan:
    """The figure's sweep on this data set."""
    rows, axis, log_axis = _rows(number, dataset)
    known = paper.TABLES["table1"].get(part or "", {})  # alpha and beta of table 2's other rows are not stated
    rows = tuple(one if one.paper in known else replace(one, paper=None) for one in rows)
    columns = () if number == 11 else _columns(dataset, part)
    return Plan(f"figure{number}", f"Figure {number} of the paper: {FIGURES[number][1]}", dataset, part, rows, columns,
                "table1", axis, log_axis)


def _columns(dataset: str, part: str | None) -> tuple[Column, ...]:
    """Clean and the strongest attack of table 1: Multi-T, on CIFAR-100 Un-T (appendices B.1 and C)."""
    key = "untargeted" if part == "cifar100" else "multitargeted"
    return (Column("clean", "Clean"), Column(key, paper.TITLES[key], attack_name(key, DEFAULTS[dataset].model)))


def _rows(number: int, dataset: str) -> tuple[tuple[Row, ...], str, bool]:
    """(rows, the axis they lie on, whether it is logarithmic)."""
    if number == 4:
        return tuple(_step_sizes(dataset)), "step size / ε", False
    if number in (5, 7):
        return _along("atlas_l", 1, "alpha", ALPHAS, dataset), "α", True
    if number in (6, 8):
        return _along("atlas_g", 1, "beta", BETAS, dataset), "β", False
    if number in (9, 10):
        both = (*_along("atlas_g", 1, "beta", BETAS, dataset), *_along("trades", 1, "beta", BETAS, dataset))
        return both, "β", False
    if number == 11:
        stable = row("atlas", 1, dataset)
        beta = BETAS[3] * _ratio("atlas", "beta", dataset)
        return (_named(stable, "avoided"), _named(row("atlas_g", 1, dataset, beta=beta), "happens")), "epoch", False
    if number in (12, 13):
        return _along("jac", 0, "alpha", JAC_ALPHAS, dataset), "α", True
    if number in (14, 15):
        return _along("trades", 1, "beta", BETAS, dataset), "β", False
    if number in (16, 17):
        return tuple(one for alpha in ATLAS_ALPHAS for one in _along("atlas", 1, "beta", ATLAS_BETAS, dataset,
                                                                     alpha=alpha)), "β", False
    raise UserError(f"there is no sweep behind figure {number}; figures with one: {', '.join(map(str, FIGURES))}")


def _step_sizes(dataset: str):
    eps = DEFAULTS[dataset].eps
    for plateau in PLATEAUS:
        for factor in STEP_SIZES:
            more = {} if factor == 1.25 else {"step_size": factor * eps}  # 1.25 eps and 2 are the defaults, so these
            more |= {} if plateau == 2 else {"plateau_epochs": plateau}  # runs are also those of the tables
            one = row("adv", 1, dataset, **more)
            yield Row(f"{one.label}, step {factor} ε, plateau {plateau}", one.options, factor,
                      f"plateau after {plateau} epochs", one.label if not more else None)


def _along(method: str, steps: int, name: str, grid: tuple[float, ...], dataset: str, **more) -> tuple[Row, ...]:
    """A row for each value of `name`; those that are a row of a table know it."""
    standard, ratio = row(method, steps, dataset), _ratio(method, name, dataset)
    more = {key: value * _ratio(method, key, dataset) for key, value in more.items()}
    rows = []
    for value in grid:
        # Twelve digits: 5e-5 * 5 is to be the 2.5e-4 that a reader would write.
        options = {**standard.options, **{key: float(f"{number:.12g}") for key, number in
                                          {name: value * ratio, **more}.items()}}
        series = ", ".join(filter(None, [standard.label, weights_text({key: options[key] for key in more})]))
        rows.append(Row(f"{standard.label}, {weights_text(options)}", options, options[name], series,
                        standard.label if options == standard.options else None))
    return tuple(rows)


def _ratio(method: str, name: str, dataset: str) -> float:
    """This data set's value of table 1 over CIFAR-10's."""
    here, there = (DEFAULTS[data].weights[method][0][name] for data in (dataset, "cifar10"))
    return here / there


def _named(one: Row, what: str) -> Row:
    return replace(one, label=f"{one.label}, {weights_text(one.options)}", series=what, paper=None)
