"""norm_relu against F.batch_norm, nn.BatchNorm2d and float64, on every backend."""

import pytest
import torch
from backends import DTYPES, assert_as_accurate, unchanged
from norm_cases import EPS, MOMENTUM, by_autograd, launches_of, site, split_finely
from torch import nn

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops._arguments import compute_dtype
from atlas_fast.ops.norm_relu import launches

SHAPE = (4, 5, 7, 3)


def call(s, groups=1, batch=True, relu=True, residual=None, running=(None, None)):
    return ops.norm_relu(s.z, residual, s.weight, s.bias, *running, groups, batch, MOMENTUM, EPS, relu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_error_against_float64(backend, dtype, batch, groups):
    s = site(backend, SHAPE, dtype)
    running = s.copy_of_running()
    _, out, mean, rstd = call(s, groups, batch, running=running)
    plain, exact = by_autograd(s, groups, batch, True), by_autograd(s.to(torch.float64), groups, batch, True)
    assert_as_accurate(out, plain["out"], exact["out"], 2)
    for result, name in zip(running, ("running_mean", "running_var"), strict=True):
        assert_as_accurate(result, plain[name], exact[name], 2)
    assert mean.shape == rstd.shape == (groups, SHAPE[1]) and mean.dtype == rstd.dtype == compute_dtype(dtype)
    if not batch:
        assert torch.equal(mean, s.running[0].expand_as(mean))
        assert torch.allclose(rstd, (s.running[1] + EPS).rsqrt().expand_as(rstd), rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_are_those_of_the_stored_sum(backend, dtype):
    s = site(backend, SHAPE, dtype)
    z, out, mean, rstd = call(s, groups=2, residual=s.residual)
    assert torch.equal(z, s.z + s.residual) and z.stride() == s.z.stride()
    s.z = z
    for result, same in zip((out, mean, rstd), call(s, groups=2)[1:], strict=True):
        assert torch.equal(result, same)
    parts = z.double().unflatten(0, (2, -1))
    var, exact = torch.var_mean(parts, (1, 3, 4), correction=0)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    assert torch.allclose(mean.double(), exact, rtol=0, atol=tolerance)
    assert torch.allclose(rstd.double(), (var + EPS).rsqrt(), rtol=tolerance, atol=0)


def test_without_a_residual_z_is_the_input(backend):
    s = site(backend, SHAPE, torch.float32)
    assert call(s)[0] is s.z


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_statistics_first_and_out_of_them_later(backend, dtype, groups):
    """What one call does, in two."""
    s = site(backend, SHAPE, dtype)
    with unchanged(s.z, s.residual):
        z, mean, var = ops.norm_relu_statistics(s.z, s.residual, groups)
    whole, out, same, rstd = call(s, groups, residual=s.residual)
    assert torch.equal(z, whole) and torch.equal(mean, same)
    assert torch.allclose((var + EPS).rsqrt(), rstd, rtol=2e-7, atol=0)
    s.z, given = z, torch.stack([mean, var])
    with unchanged(given):
        again, own, *used = ops.norm_relu(s.z, None, s.weight, s.bias, None, None, groups, eps=EPS, given=given)
    assert again is s.z and torch.equal(used[0], mean) and torch.allclose(used[1], rstd, rtol=2e-7, atol=0)
    assert torch.allclose(own.double(), out.double(), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_given_statistics_are_used_as_running_ones_are(backend):
    s = site(backend, SHAPE, torch.float32)
    given = torch.stack([value.expand(2, -1) for value in s.running]).contiguous()
    found = ops.norm_relu(s.z, s.residual, s.weight, s.bias, None, None, 2, given=given)
    running = call(s, 2, False, residual=s.residual, running=s.copy_of_running())
    for result, expected in zip(found, running, strict=True):
        assert torch.equal(result, expected)


def test_statistics_of_one_value(backend):
    _, mean, var = ops.norm_relu_statistics(torch.full_like(site(backend, (1, 3, 1, 1), torch.float32).z, 1.5))
    assert mean.tolist() == [[1.5] * 3] and var.tolist() == [[0] * 3]


def test_given_statistics_that_nothing_reads(backend):
    s = site(backend, SHAPE, torch.float32)
    given = torch.ones_like(s.weight).repeat(2, 1, 1)
    for running, batch in ((s.copy_of_running(), True), ((None, None), False)):
        with pytest.raises(UserError, match="takes given statistics"):
            ops.norm_relu(s.z, None, s.weight, s.bias, *running, 1, batch, given=given)
    with pytest.raises(UserError, match="given contiguous"):
        ops.norm_relu(s.z, None, s.weight, s.bias, None, None, 1, given=given[0])
    with pytest.raises(UserError, match="needs values"):
        ops.norm_relu_statistics(s.z[:0])


def test_running_statistics_equal_two_forwards_of_batchnorm2d(backend):
    s = site(backend, SHAPE, torch.float64)
    module = nn.BatchNorm2d(SHAPE[1], momentum=MOMENTUM, eps=EPS, dtype=torch.float64, device=backend.device)
    running = module.running_mean.clone(), module.running_var.clone()
    _, out, *_ = ops.norm_relu(s.z, None, module.weight, module.bias, *running, 2, True, MOMENTUM, EPS, False)
    expected = torch.cat([module(part) for part in s.z.chunk(2)])
    assert torch.allclose(out, expected, rtol=0, atol=1e-13)
    assert torch.allclose(running[0], module.running_mean, rtol=0, atol=1e-14)
    assert torch.allclose(running[1], module.running_var, rtol=0, atol=1e-14)
    assert not out.requires_grad


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("affine", [True, False])
def test_layouts_and_parameters(backend, layout, affine):
    s = site(backend, (2, 4, 5, 3), torch.float32, layout, affine)
    exact = by_autograd(s.to(torch.float64), 1, True, True)["out"]
    with unchanged(s.z, s.residual, *s.running):
        z, out, *_ = call(s, residual=torch.zeros_like(s.residual))
        assert torch.equal(z, s.z)
    assert torch.allclose(out.double(), exact, rtol=0, atol=1e-5)
    assert out.stride() == z.stride() == torch.empty_like(s.z).stride()


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 1, 3, 1), (3, 17, 1, 1), (1, 33, 2, 3), (1, 16, 11, 13)], ids=str)
def test_sizes(backend, shape):
    s = site(backend, shape, torch.float32)
    for batch in (True, False):
        running = s.copy_of_running()
        out = call(s, 1, batch, relu=False, running=running)[1]
        exact = by_autograd(s.to(torch.float64), 1, batch, False)
        assert torch.allclose(out.double(), exact["out"], rtol=1e-5, atol=2e-5)
        assert torch.allclose(running[1].double(), exact["running_var"], rtol=1e-5, atol=0)


def test_no_samples(backend):
    s = site(backend, (0, 3, 2, 2), torch.float32)
    z, out, mean, rstd = call(s, groups=2, batch=False, running=s.running)
    assert z.shape == out.shape == (0, 3, 2, 2) and mean.shape == rstd.shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("first", [0.0, 300.0])
def test_a_mean_far_larger_than_the_deviation(backend, dtype, first):
    """A sum of squares would lose all digits of the variance; so would one shifted by an odd first value."""
    s = site(backend, (4, 6, 9, 7), dtype)
    s.z = s.z + 1e4
    s.z[0, :, 0, 0] += first
    _, out, mean, rstd = call(s, groups=2)
    var, exact_mean = torch.var_mean(s.z.double().unflatten(0, (2, -1)), (1, 3, 4), correction=0)
    assert torch.allclose(rstd.double(), (var + EPS).rsqrt(), rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0)
    assert torch.allclose(mean.double(), exact_mean, rtol=2e-7 if dtype == torch.float32 else 1e-15, atol=0)
    if dtype == torch.float32:  # float64 would be measured by itself
        plain, exact = by_autograd(s, 2, True, True), by_autograd(s.to(torch.float64), 2, True, True)
        assert_as_accurate(out, plain["out"], exact["out"], 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch", [True, False])
def test_nan_and_infinity_go_where_pytorch_sends_them(backend, value, batch):
    s = site(backend, SHAPE, torch.float32)
    s.z[1, 2, 3, 1] = value
    running = s.copy_of_running()
    out = call(s, 2, batch, running=running)[1]
    expected = by_autograd(s, 2, batch, True)
    assert torch.equal(out.isnan(), expected["out"].isnan()) and torch.equal(out.isinf(), expected["out"].isinf())
    for result, name in zip(running, ("running_mean", "running_var"), strict=True):
        assert torch.equal(result.isfinite(), expected[name].isfinite())


def test_repeats_bit_by_bit(backend):
    s = site(backend, SHAPE, torch.bfloat16)
    for result, same in zip(call(s, 2, residual=s.residual), call(s, 2, residual=s.residual), strict=True):
        assert torch.equal(result, same)


def test_wrong_use(backend):
    s = site(backend, SHAPE, torch.bfloat16)
    running = s.copy_of_running()
    with pytest.raises(UserError, match="groups that divide the 4 samples, got 3"):
        call(s, groups=3)
    with pytest.raises(UserError, match="more than 1 value per channel"):
        ops.norm_relu(s.z[:1, :, :1, :1], None, None, None, None, None)
    with pytest.raises(UserError, match="both running_mean and running_var"):
        call(s, batch=False)
    with pytest.raises(UserError, match="both running_mean and running_var"):
        call(s, running=(running[0], None))
    with pytest.raises(UserError, match="one shape, dtype and device"):
        call(s, residual=s.residual[:2])
    with pytest.raises(UserError, match=r"\[N,C,H,W\]"):
        ops.norm_relu(s.z[0], None, None, None, None, None)
    with pytest.raises(UserError, match="float16"):
        ops.norm_relu(s.z.half(), None, None, None, None, None)
    s.weight = s.weight.bfloat16()
    with pytest.raises(UserError, match="weight contiguous"):
        call(s)


@pytest.mark.parametrize("batch", [True, False])
def test_declared_launches(backend, monkeypatch, batch):
    s = site(backend, SHAPE, torch.float32)
    found = launches_of(lambda: call(s, 2, batch, residual=s.residual, running=s.copy_of_running()), backend,
                        monkeypatch)
    assert found == launches(batch)


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (4, 3, 1, 1)], ids=str)
def test_one_channel_or_pixel_is_channels_last(backend, monkeypatch, shape):
    """Such tensors have both memory formats at once, whatever they are called."""
    z = backend.randn(*shape)
    assert launches_of(lambda: ops.norm_relu(z, None, None, None, None, None), backend, monkeypatch) == launches(True)


@pytest.mark.parametrize("groups", [1, 2])
def test_many_parts(backend, monkeypatch, groups):
    """Parts of unequal size, the last tile partly masked, and a mean far from 0."""
    s = site(backend, (2, 5, 7, 7), torch.float32)
    split_finely(s.z, groups, backend, monkeypatch)
    s.z = s.z + 1e3
    running = s.copy_of_running()
    _, out, mean, rstd = call(s, groups, residual=s.residual, running=running)
    s.z = s.z + s.residual
    plain, exact = by_autograd(s, groups, True, True), by_autograd(s.to(torch.float64), groups, True, True)
    assert_as_accurate(out, plain["out"], exact["out"], 2)
    assert_as_accurate(running[0], plain["running_mean"], exact["running_mean"], 2)
    assert torch.allclose(running[1].double(), exact["running_var"], rtol=2e-6, atol=0)  # PyTorch sums in float64 here
