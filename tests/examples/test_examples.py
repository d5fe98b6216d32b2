"""The examples run as they stand, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run():
    def run(name: str, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, str(ROOT / "examples" / name), *arguments], env=environment,
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_own_loop(run):
    loss, clean, robust = map(float, re.match(r"loss ([\d.]+), clean (\d+)%, PGD-20 (\d+)%", run("own_loop.py", "60"))
                              .groups())
    assert 0 < loss < 2.3 and clean > 50 and robust <= clean  # ten classes: chance is 10%


def test_training_step(run):
    text = run("training_step.py", "60")
    terms = dict(re.findall(r"(\w+) ([\d.]+)", text.split(";")[1]))
    assert text.startswith("engine sweeps; ") and set(terms) == {"loss", "ce", "kl", "jacobian"}
    assert 0 < float(terms["ce"]) < 2.3
