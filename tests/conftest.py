"""Common to all tests: one thread, Triton's interpreter where there is no GPU, and the marker `gpu`."""

import os
import shutil
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported

import pytest

torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def real_data():
    """The folder of real images that ATLAS_FAST_DATA names (MNIST/raw, ...), or the test is skipped."""
    folder = os.environ.get("ATLAS_FAST_DATA")
    if not folder:
        pytest.skip("ATLAS_FAST_DATA does not name a folder of real images")
    return folder


STORED = Path(__file__).parent / "stored"


@pytest.fixture
def tiny_net(monkeypatch):
    """The stored run's network, importable as tiny_net:make; random weights."""
    monkeypatch.syspath_prepend(STORED)
    import tiny_net

    return tiny_net.make(10, 1, 8)


@pytest.fixture
def stored_run(tiny_net, tmp_path):
    """A copy of the run that an earlier version began, with the log it would have had in expected.jsonl."""
    folder = shutil.copytree(STORED / "run", tmp_path / "stored")
    shutil.copy(STORED / "expected.jsonl", folder)
    return folder
