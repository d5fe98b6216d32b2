"""--amp fp16 on the command line."""

import json

import torch

from atlas_fast.training import checkpoint


def test_the_scale_is_logged_and_kept(small_run, read_log, capsys):
    run = small_run("--alpha", "0.01", "--beta", "0.5", "--epochs", "2", "--max-batches", "2", "--amp", "fp16")
    log = read_log(run)
    assert all(line["loss_scale"] == 2.0**16 and line["backoffs"] == line["not_finite_steps"] == 0 for line in log)
    assert ", fp16; " in capsys.readouterr().out
    assert json.loads((run / "config.json").read_text())["amp"] == "fp16"
    kept = checkpoint.load_last(run / "last.pt", torch.device("cpu"))["step"]["loss_scale"]
    assert kept == {"value": 2.0**16, "usable": 4, "backoffs": 0}
