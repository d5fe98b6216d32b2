"""--accumulate on the command line."""

import json

import pytest

from atlas_fast.errors import UserError
from atlas_fast.training import setup
from atlas_fast.training.config import resolve


def test_a_run_in_parts_is_the_run(small_run, read_log):
    """small_cnn has no BatchNorm; float32 rounds the sums differently."""
    options = ("--alpha", "0.01", "--beta", "0.5", "--epochs", "2", "--max-batches", "2")
    whole, parts = small_run(*options, out="a"), small_run(*options, "--accumulate", "3", out="b")
    assert json.loads((parts / "config.json").read_text())["accumulate"] == 3
    for line, expected in zip(read_log(parts), read_log(whole), strict=True):
        for name in ("loss", "ce", "kl", "jacobian"):
            assert line[name] == pytest.approx(expected[name], rel=1e-2)


def test_a_batch_that_cannot_be_divided_is_refused(small_npz):
    config = resolve({"dataset": "npz", "data_dir": str(small_npz), "device": "cpu", "batch_size": 30, "alpha": 0.0,
                      "beta": 0.0, "model": "small_cnn", "accumulate": 4})
    with pytest.raises(UserError, match="--batch-size 30 cannot be worked off in --accumulate 4 equal parts; it must"):
        setup.prepare(config)
    with pytest.raises(UserError, match="parts of each of 3 processes; it must be a multiple of 12"):
        setup.prepare(config, ranks=setup.Ranks(0, 3))
    with pytest.raises(UserError, match="--accumulate must be a whole number from 1 up"):
        resolve({"accumulate": 0})
