"""Random starts: the formula, and that memory layout, batch split and neighbours do not matter."""

import pytest
import torch
from backends import DTYPES, arranged, assert_within_one_ulp, unchanged

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops.random_start import random_start_reference
from atlas_fast.ops.rng import uniform_reference

EPS = 8 / 255
SHAPES = [(0, 3, 4, 4), (1, 1), (3, 0), (4, 17), (2, 5, 13), (2, 1, 28, 28), (2, 3, 32, 32), (3, 3, 7, 9),
          (2, 2, 3, 5, 7)]
LAYOUTS = ["contiguous", "channels_last", "permuted", "sliced"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formula(backend, shape, dtype):
    x, rng = backend.rand(*shape, dtype=dtype), backend.rng()
    with unchanged(x, rng):
        start = ops.random_start(x, EPS, rng, sample_offset=5)
    assert_within_one_ulp(start, random_start_reference(x, EPS, None, rng, ops.RANDOM_START, 5))
    u = uniform_reference(rng, shape[0], x[:1].numel(), ops.RANDOM_START, 5).double()
    exact = (x.double() + EPS * (2 * u - 1).reshape(shape)).clamp(0, 1)
    assert_within_one_ulp(start, exact.to(dtype)) if dtype == torch.float64 else None
    assert torch.allclose(start.double(), exact, rtol=0, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (3, 3, 7, 9), (2, 5, 3, 3), (2, 1, 5, 5), (2, 3, 2, 4, 5)], ids=str)
def test_memory_layout_does_not_matter(backend, shape, layout):
    x, rng = backend.rand(*shape), backend.rng()
    other = arranged(x, layout)
    start = ops.random_start(other, EPS, rng)
    assert torch.equal(start, ops.random_start(x, EPS, rng))
    assert start.stride() == torch.empty_like(other).stride()


def test_expanded_images(backend):
    x, rng = backend.rand(1, 3, 5, 5).expand(4, 3, 5, 5), backend.rng()
    assert torch.equal(ops.random_start(x, EPS, rng), ops.random_start(x.contiguous(), EPS, rng))


def test_batch_split_and_other_samples_do_not_matter(backend):
    x, rng = backend.rand(5, 3, 7, 9), backend.rng()
    start = ops.random_start(x, EPS, rng)
    parts = [ops.random_start(x[:2], EPS, rng), ops.random_start(x[2:], EPS, rng, sample_offset=2)]
    assert torch.equal(start, torch.cat(parts))
    changed = x.clone()
    changed[1] = 0.5
    rows = [0, 2, 3, 4]
    assert torch.equal(ops.random_start(changed, EPS, rng)[rows], start[rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_and_device_scalars_agree(backend, dtype):
    x, rng = backend.rand(2, 3, 6, 6, dtype=dtype), backend.rng()
    start = ops.random_start(x, EPS, rng)
    assert torch.equal(ops.random_start(x, backend.scalar(EPS, torch.float64), rng), start)
    assert torch.equal(ops.random_start(x, backend.scalar([EPS], torch.float64), rng), start)
    if dtype != torch.float64:
        assert torch.equal(ops.random_start(x, backend.scalar(EPS), rng), start)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stays_in_ball_and_range(backend, dtype):
    x = torch.cat([backend.rand(2, 3, 8, 8, dtype=dtype), backend.randn(2, 3, 8, 8).sign().clamp(0, 1).to(dtype)])
    start = ops.random_start(x, 0.1, backend.rng())
    assert start.min() >= 0 and start.max() <= 1
    assert (start.double() - x.double()).abs().max() <= 0.1 + torch.finfo(dtype).eps
    assert torch.equal(ops.random_start(x, 0, backend.rng()), x)


def test_noise_is_uniform_in_the_ball(backend):
    x = torch.full((backend.fewer(16), 3, 32, 32), 0.5, device=backend.device)
    noise = ((ops.random_start(x, 0.25, backend.rng(7, 0)) - x) / 0.25).double().flatten()
    n = noise.numel()
    assert abs(noise.mean()) < 4 / (3 * n) ** 0.5
    assert abs(noise.square().mean() - 1 / 3) < 4 * (4 / 45 / n) ** 0.5
    distance = ((noise.sort().values + 1) / 2 - torch.arange(n, device=noise.device) / n).abs().max()
    assert distance * n**0.5 < 1.95  # Kolmogorov-Smirnov, p = 0.001


def test_has_no_gradient(backend):
    x = backend.rand(2, 3, 4, 4).requires_grad_()
    assert not ops.random_start(x, EPS, backend.rng()).requires_grad


@pytest.mark.parametrize("call, message", [
    (lambda x: ops.random_start(x.half(), 0.1), "float32, float64 or bfloat16"),
    (lambda x: ops.random_start(x.to(torch.uint8), 0.1), "float32, float64 or bfloat16"),
    (lambda x: ops.random_start(x[0, 0, 0], 0.1), "batch of images"),
    (lambda x: ops.random_start(x, float("nan")), "eps must be finite"),
    (lambda x: ops.random_start(x, float("inf")), "eps must be finite"),
    (lambda x: ops.random_start(x, -0.1), "eps must be finite and >= 0"),
    (lambda x: ops.random_start(x, torch.ones(2)), "eps must be a number or a scalar tensor"),
    (lambda x: ops.random_start(x, torch.ones((), device="meta")), "eps must be a number or a scalar tensor"),
    (lambda x: ops.random_start(x, 0.1, torch.zeros(2)), "rng must be an int64 tensor"),
    (lambda x: ops.random_start(x, 0.1, torch.zeros(2, dtype=torch.int64, device="meta")), "rng must be"),
])
def test_wrong_use(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.rand(2, 3, 4, 4))
