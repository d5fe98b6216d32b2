"""The paper's figures as they stand in the code, against the paper's text, cell by cell and in both directions."""

import os
import re
from pathlib import Path

import pytest

from atlas_fast.reproduction import paper

HEADER = {"Clean accuracy": "clean", "Black box attack": "transfer", "PGD-20 attack": "pgd-20",
          "PGD-1000 attack": "pgd-1000", "Un-T attack": "untargeted", "Multi-T attack": "multitargeted",
          "RayS attack": "rays", "Auto attack": "autoattack", "Time per batch": "time"}


@pytest.fixture(scope="module")
def text():
    """The paper: ATLAS_FAST_PAPER, or ../paper/atlas.md beside ATLAS_FAST_DATA."""
    named, data = os.environ.get("ATLAS_FAST_PAPER"), os.environ.get("ATLAS_FAST_DATA")
    path = Path(named) if named else Path(data).parent / "paper" / "atlas.md" if data else None
    if path is None or not path.is_file():
        pytest.skip("ATLAS_FAST_PAPER does not name the paper's text")
    return path.read_text()


def figures_of(text, number):
    """{(part, row): [cells as they are printed]} of table `number`, and the keys of its columns."""
    body = text.split(f"\nTable {number}: ", 1)[1].split("\n\n", 2)[1]
    lines = [re.sub(r"</?b>", "", line).split("\t") for line in body.split("\n")]
    names = [cell.strip() for line in lines for cell in line if cell.strip() in HEADER]
    if "per batch" in [cell.strip() for cell in lines[1]]:
        names.append("Time per batch")  # "Time" above "per batch"
    # The white-box columns stand in the header's second line, but left of the time.
    keys = sorted((HEADER[name] for name in names), key=list(HEADER.values()).index)
    rows, part = {}, {4: "cifar10", 5: "cifar100"}.get(number)
    for cells in lines:
        if cells[0] in ("MNIST", "CIFAR-10", "CIFAR-100"):
            part = cells[0].lower().replace("-", "")
        label = next((cell for cell in cells if re.match(r"[a-z]+-step ", cell)), None)
        if label:
            found = [cell for cell in cells[cells.index(label) + 1:] if cell]
            rows[part, label] = found
    return keys, rows


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_every_cell_is_the_papers(text, number):
    keys, rows = figures_of(text, number)
    name = f"table{number}"
    assert tuple(keys) == paper.COLUMNS[name]
    assert {(part, row) for part, of in paper.TABLES[name].items() for row in of} == set(rows)
    for (part, row), cells in rows.items():
        assert len(cells) == len(keys), (part, row)
        for key, cell in zip(keys, cells, strict=True):
            value = paper.figure(name, part, row, key)
            if key == "time":
                assert cell.endswith("s") and value == float(cell[:-1]), (part, row, key)
            else:
                assert cell == ("-" if value is None else f"{value:.2f}%"), (part, row, key)
    assert len(rows) == {1: 21, 2: 10, 3: 8, 4: 8, 5: 8}[number]


def test_figures_that_stand_in_the_text_only(text):
    assert re.search(r"5-step ADV models requires slightly more time \(0\.75s per batch\).{1,80}reaching 44\.93% "
                     r"accuracy under the Multi-T attack", text)
    assert re.search(r"5 PGD steps, which requires 0\.75s per batch and reaches 25\.21% robust accuracy under Un-T",
                     text)
    assert paper.TEXT == {("cifar10", "five-step ADV"): {"multitargeted": 44.93, "time": 0.75},
                          ("cifar100", "five-step ADV"): {"untargeted": 25.21, "time": 0.75}}


def test_the_doubted_cells_are_what_they_are_doubted_for():
    for method in ("ADV", "TRADES", "ATLAS"):
        one, ten = (paper.figure("table1", "cifar10", f"{steps}-step {method}", "transfer") for steps in ("one", "ten"))
        assert one == ten and "repeats" in paper.suspect("cifar10", f"ten-step {method}", "transfer")
    stronger = {(part, row) for part in ("cifar10", "cifar100") for row in paper.TABLES["table1"][part]
                if paper.figure("table1", part, row, "untargeted") > paper.figure("table1", part, row, "pgd-1000")}
    assert stronger == {key[:2] for key in paper.SUSPECT if key[2] == "untargeted"}
    assert all(paper.figure("table1", *key) is not None for key in paper.SUSPECT)


def test_a_cell_that_the_paper_does_not_have():
    assert paper.figure("table1", "cifar100", "one-step ADV", "multitargeted") is None
    assert paper.figure("table1", "digits", "one-step ADV", "clean") is None
    assert paper.figure("table1", "cifar10", "five-step ADV", "clean") is None
    assert paper.figure("table4", "cifar10", "one-step ADV", "clean") is None
    assert paper.suspect(None, "one-step ADV", "clean") is None
