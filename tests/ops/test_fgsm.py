"""The fused random start and sign step: the same as one after the other."""

import pytest
import torch
from backends import DTYPES, arranged, assert_within_one_ulp, unchanged

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops.fgsm import fgsm_reference

EPS, STEP = 8 / 255, 10 / 255
SHAPES = [(0, 3, 4, 4), (1, 1), (3, 0), (4, 17), (2, 5, 13), (2, 1, 28, 28), (2, 3, 32, 32), (3, 3, 7, 9),
          (2, 2, 3, 5, 7)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_random_start_and_pgd_step(backend, shape, dtype):
    x, grad, rng = backend.rand(*shape, dtype=dtype), backend.randn(*shape, dtype=dtype), backend.rng()
    with unchanged(x, grad, rng):
        moved = ops.fgsm(x, grad, EPS, STEP, rng, sample_offset=5)
    assert_within_one_ulp(moved, fgsm_reference(x, grad, EPS, None, STEP, None, rng, ops.RANDOM_START, 5))
    wide = x if dtype == torch.float64 else x.float()  # the start inside the fused step is not rounded to bfloat16
    start = ops.random_start(wide, EPS, rng, sample_offset=5)
    assert torch.equal(moved, ops.pgd_step(wide, start, grad.to(wide.dtype), EPS, STEP).to(dtype))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (3, 3, 7, 9), (2, 1, 5, 5)], ids=str)
def test_memory_layout_does_not_matter(backend, shape, layout):
    x, grad, rng = backend.rand(*shape), backend.randn(*shape), backend.rng()
    moved = ops.fgsm(x, grad, EPS, STEP, rng)
    other = arranged(x, layout)
    for gradient in (grad, arranged(grad, layout)):
        again = ops.fgsm(other, gradient, EPS, STEP, rng)
        assert torch.equal(again, moved)
        assert again.stride() == torch.empty_like(other).stride()


def test_batch_split_does_not_matter(backend):
    x, grad, rng = backend.rand(5, 3, 7, 9), backend.randn(5, 3, 7, 9), backend.rng()
    parts = [ops.fgsm(x[:2], grad[:2], EPS, STEP, rng), ops.fgsm(x[2:], grad[2:], EPS, STEP, rng, sample_offset=2)]
    assert torch.equal(ops.fgsm(x, grad, EPS, STEP, rng), torch.cat(parts))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_and_device_scalars_agree(backend, dtype):
    x, grad, rng = backend.rand(2, 3, 6, 6, dtype=dtype), backend.randn(2, 3, 6, 6, dtype=dtype), backend.rng()
    moved = ops.fgsm(x, grad, EPS, STEP, rng)
    eps, step = backend.scalar(EPS, torch.float64), backend.scalar(STEP, torch.float64)
    for arguments in ((eps, step), (eps, STEP), (EPS, step)):
        assert torch.equal(ops.fgsm(x, grad, *arguments, rng), moved)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stays_in_ball_and_range(backend, dtype):
    x, grad = backend.rand(4, 3, 8, 8, dtype=dtype), backend.randn(4, 3, 8, 8, dtype=dtype)
    x[:2] = x[:2].round()
    grad[:, 0] = 0
    grad[:, 1, 0] = float("nan")
    moved = ops.fgsm(x, grad, EPS, STEP, backend.rng())
    assert moved.min() >= 0 and moved.max() <= 1
    assert (moved.double() - x.double()).abs().max() <= EPS + torch.finfo(dtype).eps


def test_zero_and_nan_gradients_keep_the_random_start(backend):
    x, grad, rng = backend.rand(2, 4, 4), torch.zeros(2, 4, 4, device=backend.device), backend.rng()
    grad[1] = float("nan")
    assert torch.equal(ops.fgsm(x, grad, EPS, STEP, rng), ops.random_start(x, EPS, rng))


def test_has_no_gradient(backend):
    x = backend.rand(2, 3, 4, 4).requires_grad_()
    assert not ops.fgsm(x, x, EPS, STEP, backend.rng()).requires_grad


@pytest.mark.parametrize("call, message", [
    (lambda x, rng: ops.fgsm(x, x[:1], 0.1, 0.1, rng), "one shape, dtype and device"),
    (lambda x, rng: ops.fgsm(x, x.double(), 0.1, 0.1, rng), "one shape, dtype and device"),
    (lambda x, rng: ops.fgsm(x.half(), x.half(), 0.1, 0.1, rng), "float32, float64 or bfloat16"),
    (lambda x, rng: ops.fgsm(x, x, float("nan"), 0.1, rng), "eps must be finite"),
    (lambda x, rng: ops.fgsm(x, x, 0.1, -1, rng), "step_size must be finite and >= 0"),
    (lambda x, rng: ops.fgsm(x, x, 0.1, 0.1, rng.int()), "rng must be an int64 tensor"),
    (lambda x, rng: ops.fgsm(x, x, 0.1, 0.1, rng[:1]), "rng must be an int64 tensor"),
])
def test_wrong_use(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.rand(2, 3, 4, 4), ops.make_rng(0))
