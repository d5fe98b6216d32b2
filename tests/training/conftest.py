import json
import sys
from pathlib import Path

import numpy as np
import pytest

from atlas_fast import train
from atlas_fast.training import curves

sys.path.append(str(Path(__file__).parent))  # for --model folders:dropout_net, and what tests share


@pytest.fixture
def picture():
    """Ask for it to have curves.png drawn."""


@pytest.fixture(autouse=True)
def only_asked_pictures(request, monkeypatch):
    """Drawing takes longer than all else in a small run."""
    if "picture" not in request.fixturenames:
        monkeypatch.setattr(curves, "draw", lambda *arguments: None)


@pytest.fixture
def small_npz(tmp_path):
    """Two classes that a small network separates: dark and bright 8x8 images; 100 to train with, 30 to test."""
    rng = np.random.default_rng(0)

    def part(n):
        labels = np.arange(n) % 2
        images = 60 + 120 * labels[:, None, None] + rng.integers(-50, 50, (n, 8, 8))
        return images.astype(np.uint8), labels

    (train_images, train_labels), (test_images, test_labels) = part(100), part(30)
    path = tmp_path / "small.npz"
    np.savez(path, train_images=train_images, train_labels=train_labels, test_images=test_images,
             test_labels=test_labels)
    return path


@pytest.fixture
def small_run(small_npz, tmp_path):
    """Train small_cnn on it for a few epochs by the command line: small_run("--epochs", "3", out="a") -> its folder,
    which is small_run.folder("a")."""

    def run(*options, out="run"):
        folder = run.folder(out)
        assert train.main(["--dataset", "npz", "--data-dir", str(small_npz), "--model", "small_cnn", "--device", "cpu",
                           "--batch-size", "30", "--epsilon", "0.1", "--out", str(folder), *options]) == 0
        return folder

    run.folder = lambda out: tmp_path / out
    return run


@pytest.fixture
def read_log():
    return lambda folder: [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
