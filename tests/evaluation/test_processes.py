"""Several processes find what one finds, image by image, whatever happens to them on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from atlas_fast.engine.ranks import LOST

HERE = Path(__file__).parent
OWN = """
import os, signal, torch
def attack(model, x, y):
    if os.environ["KILL"] == os.environ["RANK"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return (x + 0.1 * torch.sign(torch.randn_like(x))).clamp(0, 1)
"""
ATTACKS = ("fgsm", "own:attack", "square-20", "rays-30", "transfer-2", "autoattack")


def results(folder):
    """(report without seconds, arrays per image, adversaries)."""
    report = json.loads((folder / "a.json").read_text())
    for result in report["attacks"].values():
        assert result.pop("seconds") > 0
    with np.load(folder / "a.per_sample.npz") as arrays:
        return report, dict(arrays), {path.name: np.load(path) for path in (folder / "a.adversaries").iterdir()}


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_a_killed_process_ends_it_and_two_others_go_on_to_the_results_of_one(run_dir, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    paths = os.pathsep.join([str(tmp_path), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [str(run_dir), "--attacks", *ATTACKS, "--surrogate", str(run_dir), "--batch-size", "4",
               "--device", "cpu", "--save-adversaries"]
    done = subprocess.run([sys.executable, "-W", "ignore", str(HERE / "processes.py"), str(tmp_path), *command],
                          capture_output=True, text=True, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths})
    # PyTorch's own warnings of lost connections stand between; both survivors may meet the loss at once.
    ends = [line for line in done.stderr.splitlines() if line.startswith(("one by", "shared by"))]
    assert ends == ["one by 1: [0]", "shared by 3: [2, -9, 2]", "shared by 2: [0, 0]"], done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("atlas_fast: ")]
    assert said and all(line.startswith(f"atlas_fast: error: {LOST} (") for line in said), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("worst case") == done.stdout.count("written to") == 2  # by one process each time
    one, two = results(tmp_path / "one"), results(tmp_path / "shared")
    assert one[0].keys() == two[0].keys() and one[0] == two[0] and len(one[1]["label"]) == 30
    for mine, theirs in zip(two[1:], one[1:], strict=True):
        assert mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)
    assert not (tmp_path / "shared" / "a.parts").exists()
