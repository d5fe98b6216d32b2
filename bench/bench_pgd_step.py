import torch

from atlas_fast import ops
from bench.cases import EPS, IMAGES, STEP, benchmark_test, images

SIZES = tuple(IMAGES)


def plain(x, x_adv, grad):
    moved = x_adv + STEP * grad.sign()
    return torch.min(torch.max(moved, x - EPS), x + EPS).clamp_(0, 1)


def case(size, device):
    x, grad = images(size, device)
    x_adv = ops.random_start(x, EPS, ops.make_rng(0, 0, device))
    return {"atlas_fast": lambda: ops.pgd_step(x, x_adv, grad, EPS, STEP), "PyTorch": lambda: plain(x, x_adv, grad)}


test_pgd_step = benchmark_test(case, SIZES)
