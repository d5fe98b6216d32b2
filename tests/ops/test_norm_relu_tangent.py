"""norm_relu_tangent against double backward through F.batch_norm, on every backend."""

import pytest
import torch
from backends import DTYPES, arranged, assert_as_accurate, unchanged
from norm_cases import by_autograd, first_order, launches_of, site, split_finely

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops.norm_relu_tangent import launches

SHAPE = (4, 5, 7, 3)


def call(s, groups=1, batch=True, relu=True, t_residual=None, grad_weight=None, given=None):
    mean, rstd, sums = given or first_order(s, groups, batch, relu)
    return ops.norm_relu_tangent(s.t, t_residual, s.g, s.z, mean, rstd, s.weight, s.bias, sums, grad_weight, groups,
                                 batch, relu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_error_against_float64(backend, dtype, batch, groups):
    s = site(backend, SHAPE, dtype)
    grad_weight = torch.zeros_like(s.weight)
    with unchanged(s.t, s.g, s.z):
        tz, out, extra = call(s, groups, batch, grad_weight=grad_weight)
    assert tz is s.t
    plain, exact = by_autograd(s, groups, batch, True), by_autograd(s.to(torch.float64), groups, batch, True)
    assert_as_accurate(out, plain["adjoint_g"], exact["adjoint_g"], 3)
    assert_as_accurate(grad_weight, plain["adjoint_weight"], exact["adjoint_weight"], 3)
    if batch:
        assert_as_accurate(extra, plain["adjoint_z"], exact["adjoint_z"], 3)
    else:
        assert extra.numel() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [True, False])
def test_the_tangent_is_that_of_the_stored_sum(backend, dtype, batch):
    s = site(backend, SHAPE, dtype)
    given, grads = first_order(s, 2, batch), [torch.zeros_like(s.weight) for _ in range(2)]
    tz, out, extra = call(s, 2, batch, t_residual=s.t_residual, grad_weight=grads[0], given=given)
    assert torch.equal(tz, s.t + s.t_residual) and tz.stride() == s.z.stride()
    s.t = tz
    _, same_out, same_extra = call(s, 2, batch, grad_weight=grads[1], given=given)
    assert torch.equal(out, same_out) and torch.equal(extra, same_extra) and torch.equal(*grads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("relu", [True, False])
def test_halves_that_share_their_statistics(backend, dtype, layout, relu):
    """Each makes its sums, both get the rest from the average; their gradients of the weight are averaged."""
    s = site(backend, SHAPE, dtype, layout)
    mean, rstd, sums = first_order(s, 1, True, relu)
    halves, grad_weight = [slice(0, 2), slice(2, 4)], torch.zeros_like(s.weight)

    def rows(half):
        return s.g[half], s.z[half], mean, rstd, s.weight, s.bias

    made = [ops.norm_relu_tangent_sums(s.t[half], s.t_residual[half], *rows(half), relu=relu) for half in halves]
    tz, given = [tz for tz, _ in made], sum(t_sums for _, t_sums in made) / 2
    assert torch.equal(torch.cat(tz), s.t + s.t_residual) and given.shape == (3, 1, SHAPE[1])
    with unchanged(given, *tz):
        results = [ops.norm_relu_tangent(t, None, *rows(half), sums / 2, grad_weight, relu=relu, given=given)
                   for t, half in zip(tz, halves, strict=True)]
    assert all(found is t for (found, _, _), t in zip(results, tz, strict=True))
    s.t = torch.cat(tz)
    plain, exact = by_autograd(s, 1, True, relu), by_autograd(s.to(torch.float64), 1, True, relu)
    for i, name in ((1, "adjoint_g"), (2, "adjoint_z")):
        assert_as_accurate(torch.cat([result[i] for result in results]), plain[name], exact[name], 3)
    assert_as_accurate(grad_weight, plain["adjoint_weight"], exact["adjoint_weight"], 3)


def test_sums_alone(backend):
    s = site(backend, SHAPE, torch.float64)
    mean, rstd, _ = first_order(s, 2, True)
    tz, found = ops.norm_relu_tangent_sums(s.t, None, s.g, s.z, mean, rstd, s.weight, s.bias, 2)
    yh = (s.z - mean.repeat_interleave(2, 0)[..., None, None]) * rstd.repeat_interleave(2, 0)[..., None, None]
    D = s.g * (s.weight[:, None, None] * yh + s.bias[:, None, None] > 0)
    expected = [value.reshape(2, 2, SHAPE[1], -1).sum((1, 3)) for value in (s.t, s.t * yh, s.t * D)]
    assert tz is s.t and torch.allclose(found, torch.stack(expected), rtol=0, atol=1e-12)


def test_given_sums_that_nothing_reads(backend):
    s = site(backend, SHAPE, torch.float32)
    mean, rstd, sums = first_order(s, 2, True)
    given, site_ = torch.zeros_like(sums[:1]).repeat(3, 1, 1), (s.g, s.z, mean, rstd, s.weight, s.bias, sums, None, 2)
    with pytest.raises(UserError, match="takes given sums"):
        ops.norm_relu_tangent(s.t, None, *site_, batch_statistics=False, given=given)
    with pytest.raises(UserError, match="takes given sums"):
        ops.norm_relu_tangent(s.t, s.t_residual, *site_, given=given)
    with pytest.raises(UserError, match="given contiguous"):
        ops.norm_relu_tangent(s.t, None, *site_, given=given[:2])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_gradients_of_the_pairing_in_float64(backend, affine, relu):
    """d<t, dz> by autograd.grad through a first backward pass."""
    s = site(backend, (2, 4, 5, 3), torch.float64, affine=affine)
    grad_weight = torch.ones_like(s.weight) if affine else None
    _, out, extra = call(s, 1, True, relu, grad_weight=grad_weight)
    exact = by_autograd(s, 1, True, relu)
    assert torch.allclose(out, exact["adjoint_g"], rtol=0, atol=1e-12)
    assert torch.allclose(extra, exact["adjoint_z"], rtol=0, atol=1e-12)
    if affine:
        assert torch.allclose(grad_weight - 1, exact["adjoint_weight"], rtol=0, atol=1e-12)


def test_a_mean_far_larger_than_the_deviation(backend):
    s = site(backend, SHAPE, torch.float32)
    s.z = s.z + 1e3
    _, out, extra = call(s, 2)
    plain, exact = by_autograd(s, 2, True, True), by_autograd(s.to(torch.float64), 2, True, True)
    assert_as_accurate(out, plain["adjoint_g"], exact["adjoint_g"], 3)
    assert_as_accurate(extra, plain["adjoint_z"], exact["adjoint_z"], 3)


def test_an_adjoint_expanded_over_pixels(backend):
    s = site(backend, SHAPE, torch.float32)
    s.g = backend.randn(*SHAPE[:2], seed=9)[:, :, None, None].expand(SHAPE)
    given = first_order(s, 2, True)
    sparse = call(s, 2, given=given)
    s.g = s.g.contiguous(memory_format=torch.channels_last)
    for result, expected in zip(sparse, call(s, 2, given=given), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("other", ["contiguous", "channels_last"])
def test_layouts(backend, layout, other):
    s = site(backend, (2, 4, 5, 3), torch.float32, layout)
    exact = by_autograd(s.to(torch.float64), 1, True, True)
    s.g, s.t, nothing = arranged(s.g, other), arranged(s.t, other), arranged(torch.zeros_like(s.t), other)
    tz, out, extra = call(s, t_residual=nothing)
    assert torch.equal(tz, s.t)
    assert torch.allclose(out.double(), exact["adjoint_g"], rtol=0, atol=2e-5)
    assert torch.allclose(extra.double(), exact["adjoint_z"], rtol=0, atol=5e-5)
    assert tz.stride() == out.stride() == extra.stride() == torch.empty_like(s.z).stride()


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 1, 3, 1), (3, 17, 1, 1), (1, 33, 2, 3), (1, 16, 11, 13)], ids=str)
def test_sizes(backend, shape):
    s = site(backend, shape, torch.float64)
    grad_weight = torch.zeros_like(s.weight)
    _, out, extra = call(s, relu=False, grad_weight=grad_weight)
    exact = by_autograd(s, 1, True, False)
    for result, name in ((out, "adjoint_g"), (extra, "adjoint_z"), (grad_weight, "adjoint_weight")):
        assert torch.allclose(result, exact[name], rtol=1e-9, atol=1e-9)


def test_no_samples(backend):
    s = site(backend, (0, 3, 2, 2), torch.float32)
    ones = torch.ones_like(s.weight)
    tz, out, extra = call(s, 1, False, grad_weight=ones, given=(ones[None].clone(), ones[None].clone(), ones[:0]))
    assert tz.shape == out.shape == s.z.shape and extra.numel() == 0 and (ones == 1).all()


@pytest.mark.parametrize("where", ["t", "g", "z"])
def test_nan_goes_where_pytorch_sends_it(backend, where):
    for batch in (True, False):
        s = site(backend, SHAPE, torch.float32)
        getattr(s, where)[1, 2] = float("nan")
        _, out, extra = call(s, 2, batch)
        expected = by_autograd(s, 2, batch, True)
        assert torch.equal(out.isnan(), expected["adjoint_g"].isnan())
        assert not batch or torch.equal(extra.isnan(), expected["adjoint_z"].isnan())


def test_repeats_bit_by_bit(backend):
    s = site(backend, SHAPE, torch.bfloat16)
    given = first_order(s, 2, True)
    for result, same in zip(call(s, 2, given=given), call(s, 2, given=given), strict=True):
        assert torch.equal(result, same)


def test_wrong_use(backend):
    s = site(backend, SHAPE, torch.float32)
    given = first_order(s, 2, True)
    with pytest.raises(UserError, match="sums contiguous"):
        call(s, 2, given=(*given[:2], given[2][0]))
    with pytest.raises(UserError, match="mean contiguous"):
        call(s, 1, given=given)
    with pytest.raises(UserError, match="one shape, dtype and device"):
        call(s, 2, given=given, t_residual=s.t.double())
    with pytest.raises(UserError, match="groups that divide"):
        call(s, 3, given=given)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_declared_launches(backend, monkeypatch, batch, wanted):
    s = site(backend, SHAPE, torch.float32)
    given, grad_weight = first_order(s, 2, batch), torch.zeros_like(s.weight) if wanted else None
    found = launches_of(lambda: call(s, 2, batch, t_residual=s.t_residual, grad_weight=grad_weight, given=given),
                        backend, monkeypatch)
    assert found == launches(wanted, batch)


@pytest.mark.parametrize("groups", [1, 2])
def test_many_parts(backend, monkeypatch, groups):
    s = site(backend, (2, 5, 7, 7), torch.float32)
    split_finely(s.z, groups, backend, monkeypatch)
    grad_weight = torch.zeros_like(s.weight)
    _, out, extra = call(s, groups, grad_weight=grad_weight)
    plain, exact = by_autograd(s, groups, True, True), by_autograd(s.to(torch.float64), groups, True, True)
    for result, name in ((out, "adjoint_g"), (extra, "adjoint_z"), (grad_weight, "adjoint_weight")):
        assert_as_accurate(result, plain[name], exact[name], 3)
