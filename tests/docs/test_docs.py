"""The documentation: a page for each method, figures that are those of the records, the promised interface in it."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import atlas_fast as af
from atlas_fast import evaluation
from atlas_fast.objectives import PAPER
from atlas_fast.training.config import resolve
from atlas_fast.training.defaults import DEFAULTS, METHODS
from atlas_fast.training.setup import make_objective
from bench import work
from docs import measured, passes, settings
from tests.promised import PROMISED


def documented(name):
    thing = af
    for part in name.split("."):
        thing = getattr(thing, part)
    thing = evaluation.evaluate if inspect.ismodule(thing) else thing  # the module of that name may be imported
    return inspect.getdoc(thing) or ""


@pytest.mark.parametrize("name", PROMISED)
def test_the_promised_interface_says_what_it_takes(name):
    for wanted in PROMISED[name]:
        assert re.search(wanted, documented(name)), f"{name} says nothing like {wanted}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("pdoc")
    pytest.importorskip("latex2mathml")
    folder = tmp_path_factory.mktemp("docs") / "site"
    # A process of its own: here the module atlas_fast.evaluate may stand where the function is in a fresh one.
    done = subprocess.run([sys.executable, "-m", "docs", "--out", str(folder)], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr  # warnings and links that lead nowhere would fail it
    return folder


def test_every_promise_has_its_place(site):
    pages = {name: (site / f"{name}.html").read_text() for name in (
        "atlas_fast", *(f"atlas_fast/{part}" for part in ("objectives", "attacks", "models", "ops", "engine")))}
    for name in (*PROMISED, *(f"objectives.{method}" for method in af.objectives.PRESETS)):
        module, _, rest = name.partition(".")
        page, place = (module, rest) if f"atlas_fast/{module}" in pages else (None, name)
        text = pages[f"atlas_fast/{page}" if page else "atlas_fast"]
        assert f'id="{place}"' in text, f"{name} is not in the documentation"


def test_every_method_has_its_page(site):
    index = (site / "index.html").read_text()
    for method in (*METHODS, "awp", "ema"):
        text = (site / "methods" / f"{method}.html").read_text().partition("<main")[2].partition("</main>")[0]
        assert f"methods/{method}.html" in index and "<math" in text and "FORMULA" not in text and "$" not in text
        assert "Source" in text or method == "plain"
        for heading in ("Settings", "Engine and passes", "Measured") if method in METHODS else ("Engine and passes",):
            assert f">{heading}</h2>" in text, f"{method}: {heading}"


def test_a_folder_of_other_things_is_left_alone(site, tmp_path, capsys):
    from docs.__main__ import main

    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["--out", str(tmp_path)]) == 2 and "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_generator_is_named(tmp_path, monkeypatch, capsys):
    from docs.__main__ import main

    monkeypatch.setitem(sys.modules, "pdoc", None)
    for name in ("docs.site", "docs.docstrings"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(sys.modules["docs"], "site", raising=False)
    assert main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "needs pdoc" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_links_that_lead_nowhere_are_found(tmp_path):
    from docs import links

    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text('<p id="here"><a href="#here"></a><a href="sub/b.html#there"></a>'
                                     '<a href="https://example.org/x"></a><a href="#gone"></a><a href="c.html"></a>')
    (tmp_path / "sub" / "b.html").write_text('<i id="there"></i><a href="../a.html#here"></a><a href="a.html"></a>')
    assert links.broken(tmp_path) == ["a.html: the link #gone leads nowhere", "a.html: the link c.html leads nowhere",
                                      "sub/b.html: the link a.html leads nowhere"]


def cells(text):
    """{first cell: the others} of the Markdown table in a section."""
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines()
            if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_settings_are_those_of_the_table():
    table = cells(settings.section("atlas"))
    assert table["option"] == ["digits", "mnist", "cifar10", "cifar100"]
    for name, option in (("lr", "--lr"), ("batch_size", "--batch-size"), ("model", "--model")):
        assert table[option] == [f"{v:.4g}" if isinstance(v := getattr(DEFAULTS[d], name), float) else str(v)
                                 for d in table["option"]]
    for name in ("alpha", "beta"):
        for dataset, shown in zip(table["option"], table[f"--{name}"], strict=True):
            both = [weights[name] for weights in DEFAULTS[dataset].weights["atlas"]]
            shown = [float(value) for value in shown.split("; ")]
            assert (shown * 2 if len(shown) == 1 else shown) == both
    assert table["--epsilon"][2:] == ["8/255", "8/255"] and table["--step-size"][2] == "10/255; 0.007"
    assert cells(settings.section("tradesjac"))["--alpha"][1] == "to be given"
    assert "--epsilon" not in cells(settings.section("jac")) and "--noise" in cells(settings.section("n_fgsm"))


@pytest.mark.parametrize("method", PAPER)
def test_counted_passes_are_those_that_the_objective_needs(method):
    """`bench.work` derives them; without BatchNorm the pass for p(x) of an adversary by KL is run again."""
    config = resolve({"dataset": "cifar10", "method": method, "device": "cpu", "augment": "none"})
    needed = work.passes(make_objective(config))
    found = passes.count(config)
    assert found["engine"] == "sweeps" and found["forward"] == needed.forward + needed.clean_forward
    assert found["to weights"] == needed.weights and found["to inputs"] == needed.to_images + needed.inner


def test_counted_passes_of_methods_that_change_the_step():
    for method, given, expected in (("free", {"replays": 3}, (3, 3, 3)), ("yopo", {"passes": 4}, (4, 4, 4)),
                                    ("adv", {"awp": 0.01}, (3, 3, 2)), ("adv", {"steps": 3}, (4, 4, 1))):
        found = passes.count(resolve({"dataset": "cifar10", "method": method, "device": "cpu", "augment": "none",
                                      **given}))
        assert (found["forward"], found["to inputs"], found["to weights"]) == expected, method


def test_figures_are_those_of_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "ROOT", tmp_path)
    monkeypatch.setattr(measured, "ACCURACIES", tmp_path / "accuracies")
    monkeypatch.setattr(measured, "STEPS", tmp_path / "steps")
    for folder in ("accuracies", "steps"):
        (tmp_path / folder).mkdir()
    assert measured.section("adv").count("Not measured.") == 2
    attack = {"robust_accuracy": 0.4321, "settings": {"eps": 0.3, "step_size": 0.01}}
    summary = {"dataset": "mnist", "method": "adv", "steps": 1, "model": "a_net", "n": 77, "clean_accuracy": 0.9876,
               "attacks": {"pgd-20": attack}, "seed": 5}
    (tmp_path / "accuracies" / "one.json").write_text(json.dumps(
        {"command": "a command", "note": "commit abc", "training": summary}))
    cell = {"ours": {"mean": 0.5, "std": 0.01, "n": 66}, "settings": {"eps": 0.1}}
    run = {"trained": True, "seed": 3, "model": "b_net", "device_name": "a machine",
           "versions": {"torch": "9.9", "atlas_fast": "0.1"}}
    (tmp_path / "accuracies" / "two.json").write_text(json.dumps(
        {"dataset": "digits", "columns": [{"key": "k", "attack": "rays"}], "rows": [
            {"options": {"method": "adv", "steps": 2}, "cells": {"k": cell}, "runs": [run, {**run, "seed": 4}]}]}))
    (tmp_path / "steps" / "step-x.json").write_text(json.dumps({"environment": {
        "device": "cpu", "processor": "A processor", "threads": 1, "torch": "9.9", "commit": "def", "date": "a day"},
        "rows": [{"model": "m", "method": "adv-10", "batch": 8, "variant": "sweeps", "ms": 12.34, "ratio": 1.5},
                 {"model": "m", "method": "atlas", "batch": 8, "variant": "sweeps", "ms": 99.0, "ratio": 1.5}]}))
    text = measured.section("adv")
    assert "| 1 | mnist | a_net | pgd-20 | 0.3 | 0.01 | 43.21 | 77 | 5 |" in text
    assert "| 1 | mnist | a_net | none |  |  | 98.76 | 77 | 5 |" in text
    assert "`accuracies/one.json`: `a command`; commit abc." in text
    assert "| 2 | digits | b_net | rays | 0.1 | 50.00 ± 1.00 | 66 | 3, 4 |" in text
    assert "`accuracies/two.json`: a machine, torch 9.9, atlas_fast 0.1." in text
    assert "| m | adv-10 | 8 | sweeps | 12.3 |  | 1.5 | A |" in text and "99" not in text
    assert "- A: A processor" in text and "commit def" in text
    assert measured.section("trades").count("Not measured.") == 2


def test_the_repository_s_records_are_read():
    path = measured.ACCURACIES / "mnist-attacks.json"
    if not path.is_file():
        pytest.skip("a copy without records")
    found = json.loads(path.read_text())["runs"]["one-step atlas"]["attacks"]["autoattack"]
    row = f"| 1 | autoattack | 0.3 |  | {100 * found['robust_accuracy']:.2f} | {found['n']} |"
    assert row in measured.section("atlas") and row not in measured.section("adv")
