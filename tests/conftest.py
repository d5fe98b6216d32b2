"""Common to all tests: one thread, Triton's interpreter where there is no GPU, and the marker `gpu`."""

import os

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
