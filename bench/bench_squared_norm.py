"""Value and gradient of the Jacobian term, from the projections v^T J on."""

import torch

from atlas_fast import ops
from bench.cases import IMAGES, benchmark_test, images

SIZES = tuple(IMAGES)
SCALE, WEIGHT = 10 / 64, 2e-4


def case(size, device):
    _, rows = images(size, device)
    leaf = rows.clone().requires_grad_()

    def plain():
        value = leaf.square().sum() * SCALE
        return value, torch.autograd.grad(WEIGHT * value, leaf)

    return {"atlas_fast": lambda: ops.squared_norm(rows, SCALE, WEIGHT), "PyTorch": plain}


test_squared_norm = benchmark_test(case, SIZES)
