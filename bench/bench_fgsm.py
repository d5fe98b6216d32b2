"""The sign step after the gradient. PyTorch's version is given its random start; atlas_fast regenerates it."""

from atlas_fast import ops
from bench.bench_pgd_step import plain
from bench.cases import EPS, IMAGES, STEP, benchmark_test, images

SIZES = tuple(IMAGES)


def case(size, device):
    x, grad = images(size, device)
    rng = ops.make_rng(0, 0, device)
    start = ops.random_start(x, EPS, rng)
    return {"atlas_fast": lambda: ops.fgsm(x, grad, EPS, STEP, rng), "PyTorch": lambda: plain(x, start, grad)}


test_fgsm = benchmark_test(case, SIZES)
