"""The projected sign step."""

import pytest
import torch
from backends import DTYPES, arranged, assert_within_one_ulp, unchanged

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops.pgd_step import pgd_step_reference

EPS, STEP = 8 / 255, 0.007
SHAPES = [(0, 3, 4, 4), (1, 1), (3, 0), (4, 17), (2, 5, 13), (2, 1, 28, 28), (2, 3, 32, 32), (3, 3, 7, 9),
          (2, 2, 3, 5, 7)]


def points(backend, shape, dtype=torch.float32):
    x = backend.rand(*shape, seed=1, dtype=dtype)
    near = (x.double() + EPS * (2 * backend.rand(*shape, seed=2).double() - 1)).clamp(0, 1).to(dtype)
    return x, near, backend.randn(*shape, seed=3, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formula(backend, shape, dtype):
    x, near, grad = points(backend, shape, dtype)
    with unchanged(x, near, grad):
        moved = ops.pgd_step(x, near, grad, EPS, STEP)
    assert_within_one_ulp(moved, pgd_step_reference(x, near, grad, EPS, None, STEP, None))
    wide, centre = near.double() + STEP * grad.double().sign(), x.double()
    exact = wide.clamp(centre - EPS, centre + EPS).clamp(0, 1)
    assert torch.allclose(moved.double(), exact, rtol=0, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("grad_layout", ["contiguous", "channels_last"])
def test_any_mixture_of_layouts(backend, layout, grad_layout):
    x, near, grad = points(backend, (3, 3, 7, 9))
    other = arranged(x, layout)
    moved = ops.pgd_step(other, near, arranged(grad, grad_layout), EPS, STEP)
    assert torch.equal(moved, ops.pgd_step(x, near, grad, EPS, STEP))
    assert moved.stride() == torch.empty_like(other).stride()


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_and_device_scalars_agree(backend, dtype):
    x, near, grad = points(backend, (2, 3, 6, 6), dtype)
    moved = ops.pgd_step(x, near, grad, EPS, STEP)
    eps, step = backend.scalar(EPS, torch.float64), backend.scalar(STEP, torch.float64)
    for arguments in ((eps, step), (eps, STEP), (EPS, step)):
        assert torch.equal(ops.pgd_step(x, near, grad, *arguments), moved)
    if dtype != torch.float64:
        assert torch.equal(ops.pgd_step(x, near, grad, eps.float(), step.float()), moved)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stays_in_ball_and_range(backend, dtype):
    x, near, grad = points(backend, (4, 3, 8, 8), dtype)
    x[:2] = x[:2].round()
    moved = ops.pgd_step(x, near, grad, EPS, 10.0)
    assert moved.min() >= 0 and moved.max() <= 1
    assert (moved.double() - x.double()).abs().max() <= EPS + torch.finfo(dtype).eps
    assert torch.equal(ops.pgd_step(x, near, grad, 0, STEP), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_nan_gradients_leave_the_pixel(backend, dtype):
    x = torch.full((1, 6), 0.5, dtype=dtype, device=backend.device)
    grad = torch.tensor([[0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-30]], dtype=dtype).to(backend.device)
    moved = ops.pgd_step(x, x, grad, 0.25, 0.125)
    assert moved.tolist() == [[0.5, 0.5, 0.5, 0.625, 0.375, 0.625]]


def test_has_no_gradient(backend):
    x, near, grad = points(backend, (2, 3, 4, 4))
    assert not ops.pgd_step(x.requires_grad_(), near.requires_grad_(), grad, EPS, STEP).requires_grad


@pytest.mark.parametrize("call, message", [
    (lambda x: ops.pgd_step(x, x[:1], x, 0.1, 0.1), "one shape, dtype and device"),
    (lambda x: ops.pgd_step(x, x, x.double(), 0.1, 0.1), "one shape, dtype and device"),
    (lambda x: ops.pgd_step(x, x, x.to("meta"), 0.1, 0.1), "one shape, dtype and device"),
    (lambda x: ops.pgd_step(x.int(), x.int(), x.int(), 0.1, 0.1), "float32, float64 or bfloat16"),
    (lambda x: ops.pgd_step(x, x, x, float("nan"), 0.1), "eps must be finite"),
    (lambda x: ops.pgd_step(x, x, x, 0.1, -0.1), "step_size must be finite and >= 0"),
    (lambda x: ops.pgd_step(x, x, x, 0.1, torch.ones(3)), "step_size must be a number or a scalar tensor"),
])
def test_wrong_use(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.rand(2, 3, 4, 4))
