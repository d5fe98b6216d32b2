"""The fixture `backend`: every test that uses it runs on each implementation of the operations that can run here."""

import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported
sys.path.insert(0, str(Path(__file__).parent))  # --import-mode=importlib does not: `import backends` in the tests

import backends  # noqa: E402


def pytest_configure(config):
    # Kernels compute with -inf in masked lanes; numpy, which the interpreter uses, remarks on it.
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton.runtime.interpreter")


def _parameter(name):
    return pytest.param(name, marks=[pytest.mark.gpu] if "cuda" in name else [])


@pytest.fixture(params=map(_parameter, backends.NAMES))
def backend(request, monkeypatch):
    """The public functions of atlas_fast.ops run on this backend; tensors belong on `backend.device`.

    A backend without a kernel of the operation that the file is named for is skipped.
    """
    operation = request.path.stem.removeprefix("test_")
    reason = backends.missing(request.param, *({operation} & set(backends.OPERATIONS)))
    if reason:
        pytest.skip(reason)
    return backends.install(request.param, monkeypatch)
