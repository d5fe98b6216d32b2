"""--accumulate and --checkpoint-activations on the command line."""

import json

import pytest

from atlas_fast import train
from atlas_fast.errors import UserError
from atlas_fast.training import settings_file, setup
from atlas_fast.training.config import resolve


def test_a_run_in_less_memory_is_the_run(small_run, read_log):
    """small_cnn has no BatchNorm; float32 rounds the sums differently. The file's settings come back."""
    options = ("--alpha", "0.01", "--beta", "0.5", "--epochs", "2", "--max-batches", "2")
    whole = small_run(*options, out="a")
    less = small_run(*options, "--accumulate", "3", "--checkpoint-activations", out="b")
    again, _ = settings_file.merge(less / "config.json", train.parser(), {})
    assert again["accumulate"] == 3 and again["checkpoint_activations"] is True
    assert settings_file.merge(whole / "config.json", train.parser(), {})[0]["checkpoint_activations"] is None
    for line, expected in zip(read_log(less), read_log(whole), strict=True):
        for name in ("loss", "ce", "kl", "jacobian"):
            assert line[name] == pytest.approx(expected[name], rel=1e-2)


def test_a_switch_of_a_file_is_true_or_false(tmp_path):
    path = tmp_path / "config.json"
    for value in (3, "yes", [True]):
        path.write_text(json.dumps({"checkpoint_activations": value}))
        with pytest.raises(UserError, match="checkpoint_activations takes one value"):
            settings_file.merge(path, train.parser(), {})
    path.write_text(json.dumps({"epochs": True}))
    with pytest.raises(UserError, match="epochs takes one value"):
        settings_file.merge(path, train.parser(), {})
    with pytest.raises(UserError, match="yopo cannot --checkpoint-activations"):
        resolve({"method": "yopo", "checkpoint_activations": True})


def test_a_batch_that_cannot_be_divided_is_refused(small_npz):
    config = resolve({"dataset": "npz", "data_dir": str(small_npz), "device": "cpu", "batch_size": 30, "alpha": 0.0,
                      "beta": 0.0, "model": "small_cnn", "accumulate": 4})
    with pytest.raises(UserError, match="--batch-size 30 cannot be worked off in --accumulate 4 equal parts; it must"):
        setup.prepare(config)
    with pytest.raises(UserError, match="parts of each of 3 processes; it must be a multiple of 12"):
        setup.prepare(config, ranks=setup.Ranks(0, 3))
    with pytest.raises(UserError, match="--accumulate must be a whole number from 1 up"):
        resolve({"accumulate": 0})
