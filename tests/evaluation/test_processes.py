"""Several processes find what one finds, image by image, whatever happens to them on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from atlas_fast import evaluate
from atlas_fast.engine.ranks import LOST

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
OWN = """
import os, signal, torch
def attack(model, x, y):
    if os.environ.get("KILL") == os.environ.get("RANK", "alone"):
        os.kill(os.getpid(), signal.SIGKILL)
    return (x + 0.1 * torch.sign(torch.randn_like(x))).clamp(0, 1)
"""


@pytest.fixture
def start(run_dir, tmp_path):
    """start(NAME, COUNT, **environment): an evaluation in tmp_path/NAME -> its statuses and its other output."""
    (tmp_path / "own.py").write_text(OWN)
    paths = os.pathsep.join([str(tmp_path), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])

    def run(name, count, **environment):
        folder = tmp_path / name
        command = [str(run_dir), "--attacks", "fgsm", "own:attack", "square-40", "rays-70", "transfer-4", "autoattack",
                   "--surrogate", str(run_dir), "--transfer-cache", str(folder / "cache"), "--batch-size", "4",
                   "--device", "cpu", "--save-adversaries", "--out", str(folder / "a.json")]
        done = subprocess.run([sys.executable, "-W", "ignore", str(HERE / "processes.py"), str(count), *command],
                              capture_output=True, text=True, timeout=300,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment})
        *said, statuses = done.stderr.splitlines()
        return [int(status) for status in statuses.split()], "\n".join(said), done.stdout

    return run


def results(folder):
    """(report without seconds, arrays per image, adversaries)."""
    report = json.loads((folder / "a.json").read_text())
    for result in report["attacks"].values():
        assert result.pop("seconds") > 0
    with np.load(folder / "a.per_sample.npz") as arrays:
        return report, dict(arrays), {p.name: np.load(p) for p in (folder / "a.adversaries").iterdir()}


def assert_equal(found, expected):
    assert found[0] == expected[0]
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)


def test_the_results_of_one_process(start, tmp_path):
    assert start("one", 1)[0] == [0]
    one = results(tmp_path / "one")
    assert len(one[1]["label"]) == 30 and 0 < one[0]["worst_case"]["robust_accuracy"] < one[0]["clean_accuracy"]
    statuses, said, out = start("three", 3)
    assert statuses == [0, 0, 0] and said == ""
    assert out.count("n = 30") <= 1 and out.count("written to") == 1
    assert_equal(results(tmp_path / "three"), one)


def test_a_killed_process_ends_it_and_others_go_on(start, tmp_path):
    statuses, said, _ = start("killed", 3, KILL="1")
    assert statuses == [2, -signal.SIGKILL, 2]
    assert said.startswith(f"atlas_fast: error: {LOST} (") and len(said.splitlines()) == 1
    folder = tmp_path / "killed"
    assert not (folder / "a.json").exists() and len(list((folder / "a.parts" / "fgsm").glob("*.npz"))) == 8
    assert start("killed", 2)[0] == [0, 0] and not (folder / "a.parts").exists()
    assert start("one", 1)[0] == [0]
    assert_equal(results(folder), results(tmp_path / "one"))
