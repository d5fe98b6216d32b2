"""The rows, columns and settings of every table and figure, against what the paper says in its text."""

import pytest

from atlas_fast.errors import UserError
from atlas_fast.reproduce import named
from atlas_fast.reproduction import options, paper
from atlas_fast.reproduction.figures import FIGURES
from atlas_fast.reproduction.planning import chosen
from atlas_fast.reproduction.specs import with_attacks, with_rows
from atlas_fast.training.config import resolve

# Appendix B: part -> method -> {multi-step or not: (alpha, beta)}
MNIST = {"jac": (0.5, None), "adv": (None, None), "trades": (None, 1.0), "atlas": (1e-5, 0.3)}
CIFAR = {"jac": (0.5, None), "adv": (None, None), "trades": (None, 2.0), "atlas": (2e-4, 5.0), "atlas_l": (2e-4, None),
         "atlas_g": (None, 5.0), "tradesjac": (2e-4, 0.5)}
ONE = {"mnist": MNIST, "cifar10": CIFAR, "cifar100": CIFAR}
MULTI = {"mnist": {"adv": (None, None), "trades": (None, 1.0), "atlas": (5e-6, 0.2)},
         "cifar10": {"adv": (None, None), "trades": (None, 4.0), "atlas": (1e-4, 5.0)},
         "cifar100": {"adv": (None, None), "trades": (None, 4.0), "atlas": (1e-4, 10.0)}}
PLANS = [(table, part) for table, parts in paper.TABLES.items() for part in parts]


@pytest.mark.parametrize("table, part", PLANS)
def test_a_table_has_the_papers_rows_with_the_papers_settings(table, part):
    plan = named(table, part, None)
    labels = [row.label for row in plan.rows]
    assert [label for label in labels if label != "five-step ADV"] == list(paper.TABLES[table][part])
    assert ("five-step ADV" in labels) == ((part, "five-step ADV") in paper.TEXT and table == "table1")
    for row in plan.rows:
        config = resolve({"dataset": part, **row.options})
        expected = (MULTI if config.steps > 1 else ONE)[part][config.method]
        assert (config.alpha, config.beta) == expected, row
        words = {0: "zero", 1: "one", 5: "five", 10: "ten", 20: "twenty"}[config.steps]
        assert row.label.startswith(f"{words}-step ")
        assert config.step_size == pytest.approx(
            (0.01 if part == "mnist" else 0.007) if config.steps > 1 else 1.25 * config.eps)
        if (table, row.label) != ("table1", "five-step ADV"):
            assert paper.figure(table, part, row.paper, paper.COLUMNS[table][0]) is not None


@pytest.mark.parametrize("part, attacks", [
    ("mnist", {"pgd-20": "pgd-20", "pgd-1000": "pgd-1000", "untargeted": "untargeted-50-20",
               "transfer": "transfer-1000", "multitargeted": "multitargeted-50-20",
               "pgd-100@eps/10": "pgd-100@eps/10"}),
    ("cifar10", {"pgd-20": "pgd-20", "pgd-1000": "pgd-1000", "untargeted": "untargeted-100-10",
                 "transfer": "transfer-1000", "multitargeted": "multitargeted-20-5"}),
    ("cifar100", {"pgd-20": "pgd-20", "pgd-1000": "pgd-1000", "untargeted": "untargeted-100-10",
                  "transfer": "transfer-1000"})])
def test_table_1_attacks_as_the_paper_does(part, attacks):
    columns = named("table1", part, None).columns
    assert {column.key: column.attack for column in columns if column.attack} == attacks
    assert [columns[0].key, columns[-1].key] == ["clean", "time"]


def test_the_other_tables_columns():
    assert [column.attack for column in named("table2", "cifar10", None).columns] == [None, "multitargeted-20-5", None]
    assert [column.attack for column in named("table2", "cifar100", None).columns] == [None, "untargeted-100-10", None]
    for table in ("table4", "table5"):
        assert [column.attack for column in named(table, None, None).columns] == [None, "rays-40000", "autoattack"]
    assert (named("table4", None, None).dataset, named("table5", None, None).dataset) == ("cifar10", "cifar100")


def test_a_row_without_a_figure_in_the_paper_stays_empty():
    columns = named("table1", "cifar100", None).columns
    assert "multitargeted" not in [column.key for column in columns]
    plan = named("table1", "npz", "cifar10")
    assert plan.dataset == "npz" and plan.part == "cifar10" and plan.rows[1].paper == "one-step ADV"
    assert named("table1", "digits", None).part is None


@pytest.mark.parametrize("number", FIGURES)
def test_a_figures_points_are_valid_and_different(number):
    plan = named(f"figure{number}", None, None)
    part = FIGURES[number][0]
    assert plan.dataset == plan.part == part and len({row.label for row in plan.rows}) == len(plan.rows)
    configs = [resolve({"dataset": part, **row.options}) for row in plan.rows]
    assert len({(c.method, c.alpha, c.beta, c.step_size, c.plateau_epochs) for c in configs}) == len(configs)
    if number != 11:
        strongest = "untargeted-100-10" if part == "cifar100" else "multitargeted-20-5"
        assert [column.attack for column in plan.columns] == [None, strongest]
    if number in (12, 13, 14, 15, 16, 17, 4):  # they pass through the setting of table 1
        assert [row.paper for row in plan.rows].count(
            {4: "one-step ADV", 12: "zero-step JAC", 13: "zero-step JAC", 14: "one-step TRADES", 15: "one-step TRADES",
             16: "one-step ATLAS", 17: "one-step ATLAS"}[number]) == 1


def test_figures_4_and_11_are_what_the_paper_states():
    steps = {(row.options.get("plateau_epochs", 2), round(resolve({"dataset": "cifar10", **row.options}).step_size * 255
                                                          / 8, 9)) for row in named("figure4", None, None).rows}
    assert steps == {(plateau, factor) for plateau in (2, 4) for factor in (1.25, 1.5, 1.8)}
    upper, lower = (resolve({"dataset": "cifar10", **row.options}) for row in named("figure11", None, None).rows)
    assert (upper.method, upper.alpha, upper.beta) == ("atlas", 2e-4, 5.0)
    assert (lower.method, lower.alpha, lower.beta) == ("atlas_g", None, 8.0)


def test_tables_and_figures_share_their_runs():
    def folders(what, dataset=None):
        plan = named(what, dataset, None)
        return {options.folder_name({"dataset": plan.dataset, **row.options}) for row in plan.rows}

    table = folders("table1", "cifar10")
    assert table >= folders("table4") - {"cifar10-tradesjac-steps=1-alpha=0.0002-beta=0.5"}
    for figure in (4, 11, 12, 14, 16):
        assert folders(f"figure{figure}") & table, figure
    assert folders("figure9") > folders("figure6") and folders("figure9") > folders("figure14")


def test_grids_of_another_data_set_keep_their_ratio_to_its_own_value():
    def values(what):
        return [row.x for row in named(what, "digits", None).rows]

    assert values("figure5") == [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3]  # digits' alpha is 1e-3, CIFAR-10's 2e-4
    assert values("figure12") == [0.001, 0.002, 0.004, 0.01, 0.02]  # 0.01 and 0.5


def test_rows_and_attacks_by_name():
    plan = named("table1", "cifar10", None)
    assert [row.label for row in with_rows(plan.rows, ["one_step ATLAS", "one-step-adv"])] == ["one-step ADV",
                                                                                             "one-step ATLAS"]
    with pytest.raises(UserError, match="no row is called 'two-step-adv'; the rows: zero-step-jac, one-step-adv"):
        with_rows(plan.rows, ["two-step-adv"])
    columns = with_attacks(plan.columns, ["untargeted-10-1", "pgd-5", "pgd-20"], True)
    assert {column.key: column.attack for column in columns} == {
        "clean": None, "transfer": None, "pgd-20": "pgd-20", "pgd-1000": None, "untargeted": "untargeted-10-1",
        "multitargeted": None, "pgd-5": "pgd-5", "time": None}
    assert [column.key for column in with_attacks(plan.columns, ["pgd-5"], False)] == ["clean", "pgd-5", "time"]
    bare = chosen(plan, None, ["untargeted", "transfer"]).attacks
    assert sorted(bare) == ["transfer-1000", "untargeted-100-10"]
    with pytest.raises(UserError, match="one column"):
        with_attacks(plan.columns, ["rays", "rays-100"], True)


@pytest.mark.parametrize("what, dataset, beside, message", [
    ("table6", None, None, "nothing called 'table6'"), ("figure3", None, None, "nothing called 'figure3'"),
    ("tables", None, None, "nothing called"), ("table1", None, None, "name one with --dataset"),
    ("table1", "svhn", None, "--dataset must be one of"), ("table1", "npz", "svhn", "--beside must be one of")])
def test_wrong_names(what, dataset, beside, message):
    with pytest.raises(UserError, match=message):
        named(what, dataset, beside)


def test_neighbours_join_a_table_with_their_authors_settings():
    plan = chosen(named("table2", "cifar10", None), ["one-step-adv", "one-step-trades"], None,
                  ["n_fgsm", "nuat", "mart", "free"])
    assert [row.label for row in plan.rows] == ["one-step ADV", "one-step TRADES", "one-step N-FGSM", "one-step NuAT",
                                                "ten-step MART", "one-step Free"]
    assert all(row.paper is None for row in plan.rows[2:])
    for row in plan.rows[2:]:  # the options are complete: they resolve to what the method alone would give
        alone = resolve({"dataset": "cifar10", "method": row.options["method"]})
        assert resolve({"dataset": "cifar10", **row.options}) == alone
    with pytest.raises(UserError, match="a row of one-step ADV already"):
        chosen(plan, None, None, ["adv"])
    with pytest.raises(UserError, match="withstands nothing"):
        chosen(plan, None, None, ["plain"])
    with pytest.raises(UserError, match="--method must be"):
        chosen(plan, None, None, ["fgsm"])
