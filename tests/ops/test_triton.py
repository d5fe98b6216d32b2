"""What only the Triton kernels have: a compiler that accepts less than the interpreter, and offsets of two widths."""

import os
import subprocess
import sys
from pathlib import Path

import backends
import pytest
import torch
from backends import OPERATIONS

import atlas_fast
from atlas_fast import ops
from atlas_fast.ops._registry import triton_module

pytest.importorskip("triton")


def test_kernels_compile(tmp_path):
    """Every kernel for images and logits in float32 and bfloat16; compile_triton.py does other types and GPUs."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = [str(Path(atlas_fast.__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(Path(__file__).with_name("compile_triton.py")), "--dtypes", "float32", "bfloat16"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, *_ in kernels} == set(OPERATIONS)
    for name, kernel, _, fused in kernels:
        images = not name.startswith(("ce_kl", "norm_relu"))
        assert not images or fused == "0", f"{name}.{kernel} fuses products and sums: images would differ"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_64_bit_offsets(monkeypatch, memory_format):
    """Tensors of 2^31 elements and more take another path; here all do (channels-last alone has kernels for BatchNorm).
    """
    if reason := backends.missing("triton"):
        pytest.skip(reason)
    backend = backends.install("triton", monkeypatch)
    x = backend.rand(2, 3, 4, 6).contiguous(memory_format=memory_format)
    grad, rng = backend.randn(2, 3, 4, 6), backend.rng()

    weight, extra = backend.randn(3, seed=1), grad[:1].contiguous(memory_format=memory_format)

    def norms():
        grads = torch.zeros(2, 3)
        z, out, *given = ops.norm_relu(x, grad, weight, weight, None, None, 2)
        dz, sums = ops.norm_relu_backward(grad, z, *given, weight, weight, x, extra, *grads, 2)
        return z, out, dz, grads, *ops.norm_relu_tangent(x, grad, z, z, *given, weight, weight, sums, None, 2)

    def results():
        return (*norms(), ops.random_bits(rng, 3, 7), ops.random_start(x, 0.1, rng), ops.fgsm(x, grad, 0.1, 0.125, rng),
                ops.pgd_step(x, x, grad, 0.1, 0.125), ops.crop_flip(x, rng, 2, index=torch.tensor([1, 0, 1])),
                *ops.squared_norm(grad, 0.5))

    expected = results()
    for module in ("_common", "_norm", "pgd_step", "squared_norm"):
        monkeypatch.setattr(triton_module(module), "INT32_LIMIT", 0)
    for result, same in zip(results(), expected, strict=True):
        assert torch.equal(result, same)
