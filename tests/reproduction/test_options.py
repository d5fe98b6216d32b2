"""Training options by name, grids and lists: what they mean, and that a wrong one is refused in a sentence."""

import json
import sys

import pytest

from atlas_fast import train
from atlas_fast.errors import UserError
from atlas_fast.reproduction import grid, options


def test_a_grid_is_the_product_of_its_values_as_numbers():
    assert grid.product(["alpha=1e-4,1e-3", "epsilon=0.1"]) == [{"alpha": 1e-4, "eps": 0.1},
                                                                {"alpha": 1e-3, "eps": 0.1}]
    assert grid.product(["method=adv,atlas", "batch-size=8,16"])[1] == {"method": "adv", "batch_size": 16}
    assert grid.product([]) == [{}]


@pytest.mark.parametrize("word, message", [
    ("alpha", "NAME=VALUE"), ("alpha=", "NAME=VALUE"), ("alhpa=1", "no option 'alhpa'; its options: dataset"),
    ("alpha=x", "--alpha takes a number"), ("steps=1.5", "--steps takes a number"), ("beta=1,1", "twice"),
    ("out=a,b", "no option 'out'"), ("resume=true", "no option 'resume'")])
def test_a_wrong_grid(word, message):
    with pytest.raises(UserError, match=message):
        grid.product([word])


def test_a_grid_that_names_an_option_twice():
    with pytest.raises(UserError, match="twice"):
        grid.product(["epsilon=0.1", "eps=0.2"])


def test_lists(tmp_path):
    rows = [{"alpha": 0.1, "name": "weak"}, {"steps": 5, "epsilon": 0.2}]
    bare, common = tmp_path / "bare.json", tmp_path / "common.json"
    bare.write_text(json.dumps(rows))
    common.write_text(json.dumps({"common": {"epochs": 3}, "runs": rows}))
    assert grid.read_list(bare) == [{"alpha": 0.1, "name": "weak"}, {"steps": 5, "eps": 0.2}]
    assert grid.read_list(common) == [{"epochs": 3, **row} for row in grid.read_list(bare)]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no tomllib")
def test_a_list_in_toml(tmp_path):
    path = tmp_path / "runs.toml"
    path.write_text('[common]\nmethod = "atlas"\n[[runs]]\nname = "a"\nalpha = 1e-3\n[[runs]]\nalpha = 0\n')
    assert grid.read_list(path) == [{"method": "atlas", "name": "a", "alpha": 1e-3}, {"method": "atlas", "alpha": 0.0}]


@pytest.mark.parametrize("name, text, message", [
    ("a.json", "{", "not JSON"), ("a.json", "[]", "there must be one"),
    ("a.json", '{"rows": []}', "must hold the list"),
    ("a.json", "[1]", "table of training options"), ("a.json", '[{"alhpa": 1}]', "no option 'alhpa'"),
    ("a.json", '[{"alpha": [1, 2]}]', "takes one value"), ("a.json", '[{"steps": true}]', "takes one value"),
    ("a.toml", "runs = ", "TOML|Python 3.11")])
def test_a_wrong_list(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        grid.read_list(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        grid.read_list(tmp_path / "missing.json")


def test_options_as_a_command_read_back_as_they_were():
    given = {"dataset": "mnist", "method": "adv", "eps": 8 / 255, "step_size": 1.5 * 8 / 255, "epochs": 70, "lr": 1e-5,
             "schedule": "fixed"}
    assert options.parse(options.command(given)) == given
    assert options.parse(options.command({"weight_decay": 5.0})) == {"weight_decay": 5.0}


def test_options_of_a_single_training_are_refused():
    for words in (["--out", "a"], ["--resume"], ["--baseline"]):
        with pytest.raises(UserError, match=f"{words[0]} is for a single training"):
            options.parse(words)
    with pytest.raises(UserError, match="unrecognized arguments: --nonsense"):
        options.parse(["--nonsense"])


def test_folders_differ_exactly_where_the_results_do():
    base = {"dataset": "mnist", "method": "atlas", "steps": 1, "alpha": 1e-5, "beta": 0.3, "seed": 0}
    name = options.folder_name(base)
    assert name == "mnist-atlas-steps=1-alpha=1e-05-beta=0.3-seed=0"
    assert options.folder_name({**base, "device": "cuda:1", "data_dir": "elsewhere"}) == name
    changed = [{"alpha": 1.0000001e-5}, {"seed": 1}, {"method": "adv"}, {"epochs": 2}, {"lr": 0.1}, {"steps": 10}]
    assert len({options.folder_name({**base, **change}) for change in changed} | {name}) == len(changed) + 1
    own = [options.folder_name({**base, "dataset": "npz", "data_dir": file}) for file in ("a.npz", "b.npz")]
    assert own[0] != own[1] and own[0].startswith("npz-a-atlas")
    long = [options.folder_name({**base, "model": "m" * 300, "seed": seed}) for seed in (0, 1)]
    assert len(long[0]) < 200 and long[0] != long[1]


def test_every_option_of_training_can_be_varied():
    parsed = set(vars(train.parser().parse_args([])))
    settings = parsed - {"out", "resume", "baseline", "config", "save_minutes"}
    assert {options.name(dest) for dest in settings} == settings
