"""A run and its evaluation that an earlier version has written: resumed, loaded, compared."""

import json

import numpy as np
import pytest
import torch

import atlas_fast as af
from atlas_fast import train
from atlas_fast.evaluate import main as evaluate
from atlas_fast.evaluation.compare import read_report
from atlas_fast.evaluation.samples import load_npz
from atlas_fast.training import checkpoint, read_config


def test_resume(stored_run, read_log):
    state = checkpoint.load_last(stored_run / "last.pt")
    assert state["format"] == checkpoint.WITHOUT_SUM and state["schedule"]["epoch"] == 2
    expected = [json.loads(line) for line in (stored_run / "expected.jsonl").read_text().splitlines()]
    before = (stored_run / "log.jsonl").read_text()
    assert train.main(["--resume", "--out", str(stored_run)]) == 0
    lines = read_log(stored_run)
    assert (stored_run / "log.jsonl").read_text().startswith(before)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    for line, there in zip(lines[2:], expected[2:], strict=True):  # processors differ in the last bit, and so in signs
        assert there.keys() <= line.keys() and line["lr"] == there["lr"] and line["eps"] == there["eps"]
        assert [line[name] for name in ("loss", "ce", "clean_accuracy", "robust_accuracy")] == pytest.approx(
            [there[name] for name in ("loss", "ce", "clean_accuracy", "robust_accuracy")], rel=0.05, abs=0.02)
    assert checkpoint.load_last(stored_run / "last.pt")["format"] == checkpoint.FORMAT
    assert json.loads((stored_run / "summary.json").read_text())["epochs"] == 4


def test_truncated(stored_run):
    """Without a checksum the archive's own structure tells."""
    path = stored_run / "last.pt"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(checkpoint.Damaged, match="corrupt"):
        checkpoint.load_last(path)


def test_load_and_evaluate(stored_run, capsys):
    config, whole = read_config(stored_run)
    assert (config.method, config.ema, whole["weights"]) == ("atlas", 0.9, 698)
    state = checkpoint.load_last(stored_run / "last.pt")
    model = af.load(stored_run)
    for name, value in state["step"]["average"]["model"].items():  # the second epoch was the best
        assert torch.equal(model.state_dict()[name], value)
    report, samples = read_report(stored_run), load_npz(stored_run / "per_sample.npz", "samples")
    attack = report["attacks"]["pgd-20"]
    assert (report["n"], report["clean_accuracy"], attack["robust_accuracy"]) == (64, 27 / 64, 10 / 64)
    assert samples["correct"].sum() == 27
    assert (samples["correct"] & ~samples["pgd-20/broken"]).sum() == 10
    out = stored_run / "again.json"
    evaluate([str(stored_run), "--attacks", "pgd-20", "--limit", "64", "--out", str(out), "--device", "cpu"])
    assert json.loads(out.read_text())["clean_accuracy"] == pytest.approx(27 / 64, abs=1 / 64)
    again = load_npz(out.with_suffix(".per_sample.npz"), "samples")
    assert np.array_equal(again["label"], samples["label"]) and set(samples) >= set(again)
    capsys.readouterr()
    evaluate(["--compare", str(stored_run), str(out), "--out", str(stored_run / "page.html")])
    assert "42.19%" in capsys.readouterr().out
