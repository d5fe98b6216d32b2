"""What is timed: sizes, and how a benchmark file turns its operation into pytest-benchmark tests.

A benchmark file `bench_<operation>.py` has `case(size, device) -> {"atlas_fast": call, "PyTorch": call}`: the fused
operation and what one would write without it, on the same data.
"""

from __future__ import annotations

import pytest
import torch

IMAGES = {  # name: (shape, memory format)
    "mnist 128x1x28x28": ((128, 1, 28, 28), torch.contiguous_format),
    "cifar 64x3x32x32": ((64, 3, 32, 32), torch.contiguous_format),
    "cifar 64x3x32x32 channels-last": ((64, 3, 32, 32), torch.channels_last),
    "imagenet 64x3x224x224": ((64, 3, 224, 224), torch.contiguous_format),
}
LOGITS = {"64x10": (64, 10), "128x10": (128, 10), "64x100": (64, 100), "256x1000": (256, 1000)}
EPS, STEP = 8 / 255, 10 / 255


def images(size: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1] and a gradient for them."""
    shape, layout = IMAGES[size]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator).to(device, memory_format=layout)
    return x, torch.randn(shape, generator=generator).to(device, memory_format=layout)


def benchmark_test(case, sizes):
    """A pytest-benchmark test over sizes and providers; compare the rows of one group."""

    @pytest.mark.parametrize("provider", ["atlas_fast", "PyTorch"])
    @pytest.mark.parametrize("size", sizes)
    def test(benchmark, size, provider):
        benchmark.group = f"{case.__module__.split('bench_')[-1]} {size}"
        benchmark(case(size, "cpu")[provider])

    return test
