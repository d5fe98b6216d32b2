"""scale * sum(g^2) and its gradient."""

import pytest
import torch
from backends import DTYPES, arranged, assert_as_accurate, unchanged

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops._arguments import compute_dtype
from atlas_fast.ops.squared_norm import SquaredNorm

SHAPES = [(), (0, 3), (1, 1), (17,), (2, 3, 7, 9), (1, 2, 3, 16, 16), (3, 1031), (5, 3, 32, 32)]
SCALE, WEIGHT = 10 / 7, 0.3


def plain(g, scale, weight):
    wide = g.to(compute_dtype(g.dtype))
    return scale * wide.square().sum(), (2 * scale * weight * wide).to(g.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient(backend, shape, dtype):
    g = backend.randn(*shape, dtype=dtype)
    with unchanged(g):
        value, gradient = ops.squared_norm(g, SCALE, WEIGHT)
    exact_value, exact_gradient = plain(g.double(), SCALE, WEIGHT)
    plain_value, plain_gradient = plain(g, SCALE, WEIGHT)
    assert value.shape == () and value.dtype == compute_dtype(dtype) and gradient.dtype == dtype
    assert_as_accurate(value, plain_value, exact_value, 2)
    assert_as_accurate(gradient, plain_gradient, exact_gradient, 3)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
def test_any_layout(backend, layout):
    g = backend.randn(3, 3, 7, 9)
    other = arranged(g, layout)
    (value, gradient), (expected, expected_gradient) = ops.squared_norm(other), ops.squared_norm(g)
    assert torch.allclose(value, expected, rtol=1e-6) and torch.equal(gradient, expected_gradient)
    assert gradient.stride() == torch.empty_like(other).stride()


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_and_device_scalars_agree(backend, dtype):
    g = backend.randn(2, 300, dtype=dtype)
    value, gradient = ops.squared_norm(g, SCALE, WEIGHT)
    again, same = ops.squared_norm(g, SCALE, backend.scalar(WEIGHT, torch.float64))
    assert torch.equal(value, again)
    assert torch.allclose(gradient, same, rtol=2 * torch.finfo(dtype).eps, atol=0)  # another order of products


def test_two_runs_are_identical(backend):
    g = backend.randn(3, 5003)
    first, second = ops.squared_norm(g, SCALE), ops.squared_norm(g, SCALE)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_large_and_nan(backend):
    assert ops.squared_norm(torch.full((2, 2), 1e30, device=backend.device))[0].isinf()
    assert ops.squared_norm(torch.tensor([1.0, float("nan")], device=backend.device))[0].isnan()


def test_autograd(backend):
    g = backend.randn(3, 11, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: SquaredNorm.apply(t, SCALE), g)
    value = SquaredNorm.apply(g, SCALE)
    (gradient,) = torch.autograd.grad(3 * value, g)
    assert torch.allclose(gradient, 6 * SCALE * g)


def test_second_derivative_raises(backend):
    g = backend.randn(4).requires_grad_()
    (gradient,) = torch.autograd.grad(SquaredNorm.apply(g, 1.0), g, create_graph=True)
    with pytest.raises(RuntimeError, match="squared_norm is differentiable once"):
        gradient.sum().backward()


def test_wrong_use():
    g = torch.rand(4)
    for call, message in ((lambda: ops.squared_norm(g.half()), "float32, float64 or bfloat16"),
                          (lambda: ops.squared_norm(g, 1.0, float("nan")), "weight must be finite"),
                          (lambda: ops.squared_norm(g, 1.0, torch.ones(2)), "scalar tensor")):
        with pytest.raises(UserError, match=message):
            call()
