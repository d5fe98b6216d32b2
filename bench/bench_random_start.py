import torch

from atlas_fast import ops
from bench.cases import EPS, IMAGES, benchmark_test, images

SIZES = tuple(IMAGES)


def case(size, device):
    x, _ = images(size, device)
    rng = ops.make_rng(0, 0, device)
    return {"atlas_fast": lambda: ops.random_start(x, EPS, rng),
            "PyTorch": lambda: (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp_(0, 1)}


test_random_start = benchmark_test(case, SIZES)
