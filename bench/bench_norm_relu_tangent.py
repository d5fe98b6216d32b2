"""The double backward of BatchNorm and ReLU, that of x' alone (half the batch), against PyTorch's by autograd."""

import pytest
import torch
import torch.nn.functional as F

from atlas_fast import ops
from atlas_fast.ops._registry import has_kernel
from bench.bench_norm_relu import EPS, SHAPES, activations, captured, parameters
from bench.cases import benchmark_test

HALVES = {"x".join(map(str, (n // 2, *rest))): (n // 2, *rest) for n, *rest in SHAPES.values()}
SIZES = tuple(HALVES)


def case(size, device):
    t, g, z = activations(HALVES[size], device, 3)
    weight, bias, grad_weight = parameters(z.shape[1], device, 3)
    _, _, mean, rstd = ops.norm_relu(z, None, weight, bias, None, None)
    _, sums = ops.norm_relu_backward(g, z, mean, rstd, weight, bias)

    def fused():
        return lambda: ops.norm_relu_tangent(t, None, g, z, mean, rstd, weight, bias, sums, grad_weight)

    def plain():
        leaves = [leaf.detach().requires_grad_() for leaf in (g, z, weight)]
        out = F.batch_norm(leaves[1], None, None, leaves[2], bias, True, 0.0, EPS).relu()
        (dz,) = torch.autograd.grad(out, leaves[1], leaves[0], create_graph=True)
        return lambda: torch.autograd.grad(dz, leaves, t, retain_graph=True)

    return {"atlas_fast": captured(fused, device), "PyTorch": captured(plain, device)}


test_norm_relu_tangent = pytest.mark.skipif(not has_kernel("norm_relu_tangent", "CPU"), reason="no CPU kernel")(
    benchmark_test(case, SIZES))
