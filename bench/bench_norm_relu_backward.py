"""The adjoint of BatchNorm and ReLU with the adjoint of the residual and the second-order adjoint of x' added, both
parameter gradients, against the native kernels."""

import pytest
import torch

from atlas_fast import ops
from atlas_fast.ops._registry import has_kernel
from bench.bench_norm_relu import EPS, GROUPS, SHAPES, SIZES, activations, captured, parameters
from bench.cases import benchmark_test

aten = torch.ops.aten


def case(size, device):
    z, g, residual_adjoint, extra = activations(SHAPES[size], device, 4)
    extra = extra[:len(z) // GROUPS]
    weight, bias, grad_weight, grad_bias = parameters(z.shape[1], device)
    _, out, mean, rstd = ops.norm_relu(z, None, weight, bias, None, None, GROUPS)

    def fused():
        return ops.norm_relu_backward(g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias,
                                      GROUPS)

    def plain():
        adjoint, dz = aten.threshold_backward(g, out, 0), []
        for group, (part, values) in enumerate(zip(adjoint.chunk(GROUPS), z.chunk(GROUPS), strict=True)):
            result, dweight, dbias = aten.native_batch_norm_backward(
                part, values, weight, None, None, mean[group], rstd[group], True, EPS, (True, True, True))
            grad_weight.add_(dweight)
            grad_bias.add_(dbias)
            dz.append(result.add_(residual_adjoint.chunk(GROUPS)[group]))
        dz[0].add_(extra)
        return dz

    return {"atlas_fast": captured(lambda: fused, device), "PyTorch": captured(lambda: plain, device)}


test_norm_relu_backward = pytest.mark.skipif(not has_kernel("norm_relu_backward", "CPU"), reason="no CPU kernel")(
    benchmark_test(case, SIZES))
