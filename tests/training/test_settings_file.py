"""--config: a run's config.json given back."""

import json
from dataclasses import asdict, fields, replace

import pytest

from atlas_fast import train
from atlas_fast.errors import UserError
from atlas_fast.training import read_config, resolve, settings_file
from atlas_fast.training.config import Config
from atlas_fast.training.defaults import DEFAULTS, METHODS


def given_back(path, *options):
    given = vars(train.parser().parse_args(list(options)))
    merged, validation = settings_file.merge(path, train.parser(), given)
    names = {field.name for field in fields(Config)}
    return replace(resolve({name: value for name, value in merged.items() if name in names}), **validation)


def write(path, config, **more):
    path.write_text(json.dumps({**asdict(config), **more}))
    return path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", DEFAULTS)
def test_every_methods_settings_come_back(dataset, method, tmp_path):
    weights = {"tradesjac": {"alpha": 0.1, "beta": 0.3}, "grad_align": {"alpha": 0.2}}.get(method, {})
    config = resolve({"dataset": dataset, "method": method, "seed": 3, "eps": 0.07, "device": "cpu", **weights})
    config = replace(config, val_steps=7, val_step_size=0.0123)
    assert given_back(write(tmp_path / "c.json", config, versions={"torch": "2"})) == config


def test_options_win(tmp_path):
    config = resolve({"dataset": "cifar10", "steps": 10, "alpha": 0.3, "lr": 0.02, "device": "cpu"})
    path = write(tmp_path / "c.json", config)
    assert given_back(path, "--alpha", "0.5", "--batch-size", "7") == replace(config, alpha=0.5, batch_size=7)
    wider = given_back(path, "--epsilon", str(16 / 255))
    assert (wider.eps, wider.step_size, wider.lr) == (16 / 255, config.step_size, 0.02)
    assert wider.val_step_size == pytest.approx(2 * config.val_step_size)
    # Another method takes its own weights and steps, and the rest of the file.
    other = given_back(path, "--method", "trades")
    assert other == replace(resolve({"dataset": "cifar10", "method": "trades", "device": "cpu"}), lr=0.02)
    own = given_back(path, "--objective", "losses:make")
    assert (own.method, own.objective, own.alpha, own.lr, own.steps) == ("own", "losses:make", None, 0.02, 1)
    path = write(tmp_path / "own.json", own)
    assert given_back(path) == own
    assert given_back(path, "--method", "adv") == replace(own, method="adv", objective=None)


def test_a_run_from_a_runs_file_is_the_same_run(small_run):
    first = small_run("--epochs", "2", "--method", "trades", "--beta", "1.5", "--lr", "0.02")
    again = first.with_name("again")
    train.main(["--config", str(first / "config.json"), "--out", str(again)])
    assert read_config(again)[0] == read_config(first)[0]
    assert (again / "best.safetensors").read_bytes() == (first / "best.safetensors").read_bytes()
    written = set(json.loads((first / "config.json").read_text()))
    assert written - {field.name for field in fields(Config)} == set(settings_file.DESCRIPTIVE)
    with pytest.raises(UserError, match="other settings: beta .1.5, now 2.0"):
        train.main(["--config", str(first / "config.json"), "--out", str(again), "--resume", "--beta", "2"])


@pytest.mark.parametrize("text, sentence", [
    ("{", "cannot be read"), ("[1]", "holds no settings"), ('"atlas"', "holds no settings"), ("\x00", "cannot be read"),
    ("[" * 200_000, "cannot be read"),
    ('{"warmth": 3, "lr": 0.1, "depht": 4}', "does not have: warmth, depht"), ('{"out": "x"}', "does not have: out"),
    ('{"resume": true}', "does not have: resume"), ('{"lr": "fast"}', "--lr: invalid float value: 'fast'"),
    ('{"epochs": 1.5}', "--epochs: invalid int"), ('{"epochs": true}', "epochs takes one value"),
    ('{"lr": [1]}', "lr takes one value"), ('{"lr": NaN}', "--lr must be a number above 0"),
    ('{"eps": 1e999}', "--epsilon must be"), ('{"method": "adv", "alpha": 1}', "adv has no alpha"),
    ('{"method": "own"}', "--method must be one of"),
    ('{"dataset": "--resume"}', "--dataset must be one of"), ('{"val_steps": 0}', "val_steps must be a whole number"),
    ('{"val_step_size": "1"}', "val_step_size must be a number"), ('{"val_steps": 1.5}', "whole number"),
    ('{"engine_used": "sweeps", "versions": {}, "batch_size": 0}', "--batch-size must be")])
def test_what_is_no_settings_file_is_refused(text, sentence, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        train.main(["--config", str(path), "--out", str(tmp_path / "out")])
    assert sentence in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.json cannot be read"):
        train.main(["--config", str(tmp_path / "nowhere.json")])
