"""BatchNorm of a residual sum with its ReLU, training mode: x' and x as one batch of two groups, at the sites of a
WRN-28-8 (bfloat16 on a GPU, float32 on a CPU), against F.batch_norm and relu."""

import os

import pytest
import torch
import torch.nn.functional as F

from atlas_fast import ops
from atlas_fast.ops._registry import has_kernel
from bench.cases import benchmark_test

SHAPES = {"128x128x32x32": (128, 128, 32, 32), "128x256x16x16": (128, 256, 16, 16), "128x512x8x8": (128, 512, 8, 8)}
SIZES = tuple(SHAPES)
GROUPS, MOMENTUM, EPS = 2, 0.1, 1e-5


def activations(shape, device, count):
    """Channels-last tensors as a training step has them."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    drawn = (torch.randn(shape, generator=generator) for _ in range(count))
    return [x.to(device, dtype, memory_format=torch.channels_last) for x in drawn]


def parameters(channels, device, count=4):
    return [torch.rand(channels, generator=torch.Generator().manual_seed(i)).to(device) + 0.5 for i in range(count)]


def captured(prepare, device):
    """prepare() returns a call; on a GPU its CUDA graph's replay, because the kernels are shorter than their launch.

    Everything happens on the stream of the capture: autograd runs a node on the stream that it was made on. Without
    PyTorch's block cache (for compute-sanitizer) nothing can be captured, since memory is asked of the driver.
    """
    if device != "cuda" or os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING") == "1":
        return prepare()
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        call = prepare()
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay


def case(size, device):
    a, residual = activations(SHAPES[size], device, 2)
    weight, bias, mean, var = parameters(a.shape[1], device)

    def fused():
        return ops.norm_relu(a, residual, weight, bias, mean, var, GROUPS, True, MOMENTUM, EPS, True)

    def plain():
        z = a + residual
        return [F.batch_norm(part, mean, var, weight, bias, True, MOMENTUM, EPS).relu_() for part in z.chunk(GROUPS)]

    return {"atlas_fast": captured(lambda: fused, device), "PyTorch": captured(lambda: plain, device)}


test_norm_relu = pytest.mark.skipif(not has_kernel("norm_relu", "CPU"), reason="no CPU kernel")(
    benchmark_test(case, SIZES))
