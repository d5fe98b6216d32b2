"""The whole term, forward and backward to the weights, on a linear network: what the operation adds to a network's own
passes. On a deep network those passes dominate (`python -m bench.step`)."""

import torch

from atlas_fast import ops
from bench.cases import IMAGES, benchmark_test, images

SIZES = tuple(size for size in IMAGES if "channels-last" not in size)


def plain(logits, x):
    v = torch.nn.functional.normalize(torch.randn_like(logits), dim=1)
    (rows,) = torch.autograd.grad(logits, x, v, create_graph=True)
    return rows.square().sum() * (logits.shape[1] / len(x))


def case(size, device):
    x, _ = images(size, device)
    x.requires_grad_()
    weight = torch.randn(x[0].numel(), 10, device=device, requires_grad=True)
    logits = x.flatten(1) @ weight
    rng = ops.make_rng(0, 0, device)
    return {"atlas_fast": lambda: torch.autograd.grad(ops.jacobian_norm(logits, x, 1, rng), weight),
            "PyTorch": lambda: torch.autograd.grad(plain(logits, x), weight)}


test_jacobian_norm = benchmark_test(case, SIZES)
