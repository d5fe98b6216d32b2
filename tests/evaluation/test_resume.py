"""Batches that are kept until the evaluation is over."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from atlas_fast.errors import UserError
from atlas_fast.evaluation.parts import Parts, file_name, fingerprint, model_fingerprint
from atlas_fast.evaluation.progress import Bar
from atlas_fast.evaluation.run import Evaluation
from atlas_fast.evaluation.suite import create_suite

EPS = 0.05
KILLER = """
import os, signal, torch
def attack(model, x, y):
    # Not the same twice without the seed, so that a batch computed again would show.
    calls = int(os.environ.get("CALLS", 0)) + 1
    os.environ["CALLS"] = str(calls)
    if calls == 3 and os.environ.get("KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    open(os.environ["COUNT"], "a").write("x")
    return (x + 0.1 * torch.sign(torch.randn_like(x))).clamp(0, 1)
"""


def without_seconds(report):
    for result in report["attacks"].values():
        result.pop("seconds")
    return report


def test_a_killed_evaluation_goes_on_and_ends_the_same(run_dir, tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    count = tmp_path / "count"

    def start(out, **environment):
        command = [sys.executable, "-W", "ignore", "-m", "atlas_fast.evaluate", str(run_dir), "--attacks", "pgd-2",
                   "killer:attack", "--batch-size", "8", "--device", "cpu", "--out", str(out), "--save-adversaries"]
        paths = os.pathsep.join([str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(command, env={**os.environ, "COUNT": str(count), "PYTHONPATH": paths, **environment},
                              capture_output=True, text=True)

    whole, killed = tmp_path / "whole" / "a.json", tmp_path / "killed" / "a.json"
    assert start(whole).returncode == 0
    count.write_text("")
    assert start(killed, KILL="1").returncode == -signal.SIGKILL
    assert sorted(path.name for path in killed.parent.iterdir()) == ["a.parts"]
    done = start(killed)
    assert done.returncode == 0, done.stderr
    assert count.read_text() == "xxxx"  # two batches before, two after
    assert without_seconds(json.loads(whole.read_text())) == without_seconds(json.loads(killed.read_text()))
    names = ["a.adversaries", "a.html", "a.json", "a.per_sample.npz"]
    assert [sorted(path.name for path in out.parent.iterdir()) for out in (whole, killed)] == [names] * 2
    with np.load(whole.with_suffix(".per_sample.npz")) as one, np.load(killed.with_suffix(".per_sample.npz")) as other:
        assert set(one) == set(other) and all(np.array_equal(one[key], other[key]) for key in one)
    saved = [np.load(out.with_suffix(".adversaries") / "pgd-2.npy") for out in (whole, killed)]
    assert saved[0].shape == (30, 1, 8, 8) and saved[0].dtype == np.float32 and np.array_equal(*saved)


@pytest.fixture
def evaluation(digits_model, tmp_path):
    """make(seed=0): an evaluation of 50 digits in batches of 20 whose parts are kept in tmp_path/parts."""
    model, x, y = digits_model

    def make(seed=0):
        return Evaluation(model, x[:50], y[:50], 20, seed, parts=Parts(tmp_path / "parts", {"seed": seed}))

    return make


def attack(evaluation, name="pgd-2", eps=EPS):
    correct = evaluation.predictions() == evaluation.y.numpy()
    return evaluation.attack(name, create_suite([name], eps)[name], correct)


def test_finished_batches_are_read_and_not_computed(evaluation, tmp_path, monkeypatch):
    first = attack(evaluation())
    assert sorted(path.name for path in (tmp_path / "parts" / "pgd-2").iterdir()) == \
        ["0-20.npz", "20-40.npz", "40-50.npz", "settings.json"]
    (tmp_path / "parts" / "pgd-2" / "20-40.npz").unlink()
    computed = []
    original = Evaluation._attack_batch

    def counted(self, *arguments):
        computed.append(arguments[3])
        return original(self, *arguments)

    monkeypatch.setattr(Evaluation, "_attack_batch", counted)
    second = attack(evaluation())
    assert computed == [20]
    for key in ("index", "broken", "prediction", "linf", "l2", "kept", "adversaries"):
        assert np.array_equal(getattr(first, key), getattr(second, key)), key
    evaluation().parts.remove(["pgd-2"])
    assert not (tmp_path / "parts").exists()


def test_other_settings_are_named_and_not_mixed(evaluation, tmp_path):
    attack(evaluation())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="unfinished pgd-2 with eps = 0.05, now it is 0.1; .* --fresh"):
        attack(evaluation(), eps=0.1)
    with pytest.raises(UserError, match="unfinished pgd-2 with seed = 0, now it is 1"):
        attack(evaluation(seed=1))
    assert sorted(tmp_path.rglob("*")) == before
    attack(evaluation(seed=1), "pgd-3")  # another attack has settings of its own
    evaluation().parts.remove(["pgd-2"])
    assert (tmp_path / "parts" / "pgd-3").is_dir()


def test_corrupt_files_are_one_sentence(evaluation, tmp_path):
    attack(evaluation())
    part, settings = tmp_path / "parts" / "pgd-2" / "20-40.npz", tmp_path / "parts" / "pgd-2" / "settings.json"
    whole = part.read_bytes()
    other = (part.parent / "0-20.npz").read_bytes()
    short = (part.parent / "40-50.npz").read_bytes()
    for damaged in (whole[:100], b"", b"nonsense", whole[:-200], short, whole[:300] + b"\xff" * 200 + whole[500:]):
        part.write_bytes(damaged)
        with pytest.raises(UserError, match="20-40.npz .* delete it to have the batch computed again"):
            attack(evaluation())
    part.write_bytes(whole)
    for damaged in ("{", "[1]", ""):
        settings.write_text(damaged)
        with pytest.raises(UserError, match="settings.json is corrupt, .* --fresh discards"):
            attack(evaluation())
    assert part.read_bytes() == whole and (part.parent / "0-20.npz").read_bytes() == other


def test_interrupting_keeps_the_batches(evaluation, tmp_path, monkeypatch):
    original = Evaluation._attack_batch

    def interrupted(self, *arguments):
        if arguments[3] == 40:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Evaluation, "_attack_batch", interrupted)
        attack(evaluation())
    assert sorted(path.name for path in (tmp_path / "parts" / "pgd-2").glob("*.npz")) == ["0-20.npz", "20-40.npz"]


def test_the_bar_shows_robust_accuracy_and_is_drawn_on_a_terminal_only(monkeypatch):
    for terminal in (False, True):
        shown = io.StringIO()
        monkeypatch.setattr(shown, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr("sys.stderr", shown)
        for label in ("pgd-2", None):
            bar = Bar(label, 100)
            bar.add(40, 30, True)
            time.sleep(0.6)  # it is drawn twice a second
            bar.add(20, 12, False)
            bar.close()
        if not terminal:
            assert shown.getvalue() == ""
    assert "pgd-2:  60%" in shown.getvalue() and "60/100" in shown.getvalue() and "robust 70.00%" in shown.getvalue()


def test_names_of_files_and_fingerprints(digits_model):
    names = ["pgd-20", "pgd-20@eps/10", "pgd-20@eps_10", "a.b:c", "a.b:d", "../../x:y"]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names) and files[0] == "pgd-20" and not any("/" in file for file in files)
    model, x, y = digits_model
    assert fingerprint(x, y) == fingerprint(x.clone(), y) != fingerprint(x + 1e-3, y)
    before = model_fingerprint(model)
    with torch.no_grad():
        model[3].bias[0] += 1e-3
        changed = model_fingerprint(model)
        model[3].bias[0] -= 1e-3
    assert changed != before
