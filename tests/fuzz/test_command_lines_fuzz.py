"""Command lines with values that make no sense: one sentence, exit status 2, no traceback, nothing written."""

import contextlib
import importlib
import io
import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judging import check_number, counted

from atlas_fast import errors, reproduce, sweep, train
from atlas_fast.models import small_cnn
from atlas_fast.reproduction import campaign
from atlas_fast.training.config import resolve
from atlas_fast.training.files import write_json

evaluate = importlib.import_module("atlas_fast.evaluate")
data = st.data()
numbers = st.sampled_from(("nan", "inf", "-inf", "-1", "0", "-0", "1e309", "1e-400", "1e38", "0x10", "1_0", "0.5",
                           "1,5", "1e3", "٣", "²", "9" * 30, "9" * 5000, "", " ", "1 2", "-", "--", "1", "2", "true"))
words = st.sampled_from((
    "", " ", "-", "é", "a" * 300, "a" * 5000, "/", ".", "..", "/proc/none/x", "/dev/null", "/dev/null/x", "nan",
    "wrn-10-0", "wrn-9-1", "timm:", "os:getcwd", "json:dumps", ":",
    "cuda:99", "cuda:-1", "cpu:x", "meta", "pgd-0", "pgd-20",
    "\udcff", "digits", "atlas", "x\ny", "%s{}", "auto", "off", "on"))
values = st.one_of(numbers, words, st.text(max_size=5))


class Reached(Exception):
    """Everything was accepted; what follows would take time."""


def reached(*arguments, **keywords):
    raise Reached(*arguments)


def options(*parsers) -> list[str]:
    """Every option but those that are made for ending early."""
    found = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    return sorted(found - {"-h", "--help", "--dry-run", "--only-report", "--compare"})


@st.composite
def arguments(draw, names):
    """One to three options, each with values, "=value" or none."""
    line = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.one_of(st.sampled_from(names), st.sampled_from(names), st.just("--nothing"), st.just("stray")))
        style = draw(st.integers(0, 9))
        if style == 0:
            line.append(name)
        elif style == 1:
            line.append(f"{name}={draw(values)}")
        else:
            line += [name, draw(values)]
    return line


def judge(main, line):
    """True where the line was accepted; else one sentence was printed and the status is 2."""
    before, said = sorted(os.listdir(".")), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            errors.run_cli(lambda: main(line))
    except Reached:
        return True
    except SystemExit as end:
        text = said.getvalue()
        assert end.code == 2, (line, end.code, text)
        assert text.startswith("atlas_fast: error: ") and len(text) > 25 and text.count("\n") == 1, (line, text)
        assert "Traceback" not in text and sorted(os.listdir(".")) == before, line
    return False


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder to be in, and one with a run. Whatever would take time raises Reached instead."""
    folder = tmp_path_factory.mktemp("lines")
    run = folder / "run"
    (folder / "here").mkdir()
    run.mkdir()
    write_json(run / "config.json", {**vars(resolve({"dataset": "digits", "device": "cpu"})), "num_classes": 10,
                                     "in_channels": 1, "image_pixels": 8, "classes": []})
    torch.save(small_cnn(10, 1, 8).state_dict(), run / "weights.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "here")
        patch.setattr(train, "prepare", reached)
        patch.setattr(evaluate, "load", reached)
        patch.setattr(campaign, "load_data", reached)
        yield run


@given(data)
@counted
def test_train(place, data):
    line = data.draw(arguments(options(train.parser())))
    seen = []

    def main(words):
        try:
            return train.main(words)
        except Reached as reason:
            seen.append(reason.args[0])
            raise

    if judge(main, ["--dataset", "digits", "--device", "cpu", *line]):  # then with settings that one can train with
        for name, value in vars(seen[0]).items():
            assert not isinstance(value, float) or (math.isfinite(value) and value >= 0), (name, value)


@given(data)
@counted
def test_evaluate(place, data):
    line = data.draw(arguments(options(evaluate.parser())))
    target = data.draw(st.sampled_from((str(place), str(place), "", "nowhere", "a" * 300, "/dev/null", None)))
    judge(evaluate.main, [*([] if target is None else [target]), *line])


@given(data)
@counted
def test_sweep(place, data):
    p = campaign.parser("x", "", "runs")
    line = data.draw(arguments([*options(p, train.parser()), "--grid", "--list"]))
    judge(sweep.main, ["--device", "cpu", *line])


@given(data)
@counted
def test_reproduce(place, data):
    p = campaign.parser("x", "", "runs")
    line = data.draw(arguments([*options(p, train.parser()), "--rows", "--beside"]))
    what = data.draw(st.sampled_from(("table1", "table9", "figure4", "figure99", "figure", "", "a" * 300, "table1 ")))
    judge(reproduce.main, [what, "--device", "cpu", "--dataset", "digits", *line])


def test_the_number_of_inputs(request):
    check_number(request)
