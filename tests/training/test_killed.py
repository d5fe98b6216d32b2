"""Killed at any instant, ahead of any system call of saving, or with a full disk, a run goes on to the same end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform != "linux", reason="needs fork and /proc")


def test_killed(small_npz, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "stored", os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run([sys.executable, str(HERE / "killed.py"), str(folder), str(small_npz)], text=True,
                          capture_output=True, timeout=600,
                          env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
