"""norm_relu_backward against autograd through F.batch_norm, in float64 and in its own precision, on every backend."""

import pytest
import torch
from backends import DTYPES, arranged, assert_as_accurate, unchanged
from norm_cases import EPS, MOMENTUM, by_autograd, first_order, launches_of, site, split_finely

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops._arguments import compute_dtype
from atlas_fast.ops.norm_relu_backward import launches

SHAPE = (4, 5, 7, 3)


def call(s, groups=1, batch=True, relu=True, residual_adjoint=None, extra=None, grads=(None, None), input_too=True,
         given=None):
    return ops.norm_relu_backward(s.g, s.z, *(given or first_order(s, groups, batch)[:2]), s.weight, s.bias,
                                  residual_adjoint, extra, *grads, groups, batch, relu, input_too)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_error_against_float64(backend, dtype, batch, groups):
    s = site(backend, SHAPE, dtype)
    grads = torch.zeros_like(s.weight), torch.zeros_like(s.weight)
    dz, sums = call(s, groups, batch, grads=grads)
    plain, exact = by_autograd(s, groups, batch, True), by_autograd(s.to(torch.float64), groups, batch, True)
    assert_as_accurate(dz, plain["dz"], exact["dz"], 3)
    assert_as_accurate(grads[0], plain["dweight"], exact["dweight"], 3)
    assert_as_accurate(grads[1], plain["dbias"], exact["dbias"], 3)
    assert sums.shape == (2, groups, SHAPE[1]) and sums.dtype == compute_dtype(dtype)
    assert_as_accurate(sums[0].sum(0), plain["dbias"], exact["dbias"], 3)
    assert_as_accurate(sums[1].sum(0), plain["dweight"], exact["dweight"], 3)


@pytest.mark.parametrize("batch", [True, False])
def test_summands_are_added_before_the_one_rounding(backend, batch):
    s = site(backend, SHAPE, torch.bfloat16)
    extra = s.t[:3]
    with unchanged(s.g, s.z, s.residual, s.t):
        result, _ = call(s, 1, batch, residual_adjoint=s.residual, extra=extra)
    wide = site(backend, SHAPE, torch.bfloat16).to(torch.float32)
    expected, _ = call(wide, 1, batch, residual_adjoint=wide.residual, extra=wide.t[:3])
    assert (result.float() - expected).abs().max() <= 2**-8 * expected.abs().max()
    assert torch.equal(result, expected.bfloat16())
    nothing, _ = call(wide, 1, batch)
    added = wide.residual + torch.cat([wide.t[:3], torch.zeros_like(wide.t[3:])])
    assert torch.allclose(expected, nothing + added, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [True, False])
def test_the_mask_is_that_of_the_forward(backend, dtype, batch):
    """Exactly: out > 0 where the adjoint passes, also where weight yh + bias is 0 or nearly so."""
    s = site(backend, (4, 6, 7, 3), dtype)
    s.bias[:3] = 0
    s.running[0][:3] = s.z[0, :3, 0, 0].to(s.running[0].dtype)
    s.weight[1] *= -1e-6
    _, out, *given = ops.norm_relu(s.z, None, s.weight, s.bias, *s.copy_of_running(), 1, batch, MOMENTUM, EPS, True)
    s.g = torch.ones_like(s.g)
    passed, _ = call(s, 1, False, given=given)  # weight rstd where the mask is 1
    assert torch.equal(passed != 0, out > 0)


def test_an_adjoint_expanded_over_pixels(backend):
    s = site(backend, SHAPE, torch.bfloat16)
    per_sample = backend.randn(*SHAPE[:2], seed=9, dtype=torch.bfloat16)
    for expanded in (per_sample[:, :, None, None], per_sample[:1, :1, None, None]):
        s.g = expanded.expand(SHAPE)
        sparse = call(s, 2)
        s.g = s.g.contiguous(memory_format=torch.channels_last)
        for result, expected in zip(sparse, call(s, 2), strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_halves_that_share_their_statistics(backend, dtype, layout):
    """Each makes its sums, both get dz from the average: what one call on the whole gives."""
    s = site(backend, SHAPE, dtype, layout)
    mean, rstd, _ = first_order(s, 1, True)
    halves = [slice(0, 2), slice(2, 4)]
    grads = [torch.zeros_like(s.weight) for _ in range(2)]

    def part(half, slots=(None, None), **rest):
        return ops.norm_relu_backward(s.g[half], s.z[half], mean, rstd, s.weight, s.bias, *rest.pop("summands", ()),
                                      grad_weight=slots[0], grad_bias=slots[1], **rest)

    sums = [part(half, grads, input_too=False)[1] for half in halves]
    given = sum(sums) / 2
    with unchanged(given):
        results = [part(half, summands=(s.residual[half], s.t[half][:1]), given=given) for half in halves]
    assert all(left.numel() == 0 for _, left in results)
    exact, plain = (by_autograd(v, 1, True, True) for v in (s.to(torch.float64), s))
    added = s.residual.double()
    for half in halves:
        added[half.start] += s.t[half.start].double()
    dz = torch.cat([dz for dz, _ in results])
    assert_as_accurate(dz, (plain["dz"].double() + added).to(dtype), exact["dz"] + added, 3)
    for grad, name in zip(grads, ("dweight", "dbias"), strict=True):
        assert_as_accurate(grad, plain[name], exact[name], 3)


def test_given_sums_that_nothing_reads(backend):
    s = site(backend, SHAPE, torch.float32)
    mean, rstd, sums = first_order(s, 1, True)
    for changes in ({"input_too": False}, {"batch_statistics": False}, {"grad_weight": torch.zeros_like(s.weight)}):
        with pytest.raises(UserError, match="takes given sums"):
            ops.norm_relu_backward(s.g, s.z, mean, rstd, s.weight, s.bias, given=sums, **changes)
    with pytest.raises(UserError, match="given contiguous"):
        ops.norm_relu_backward(s.g, s.z, mean, rstd, s.weight, s.bias, given=sums[0])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("other", ["contiguous", "channels_last"])
def test_layouts_without_parameters(backend, layout, other):
    s = site(backend, (2, 4, 5, 3), torch.float32, layout, affine=False)
    s.g, added = arranged(s.g, other), arranged(s.residual, other)
    dz, _ = call(s, 1, True, residual_adjoint=added, extra=arranged(s.t[:1], other))
    expected = by_autograd(s.to(torch.float64), 1, True, True)["dz"] + added
    expected[:1] += s.t[:1]
    assert torch.allclose(dz.double(), expected, rtol=0, atol=1e-5)
    assert dz.stride() == torch.empty_like(s.z).stride()


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 1, 3, 1), (3, 17, 1, 1), (1, 33, 2, 3), (1, 16, 11, 13)], ids=str)
def test_sizes(backend, shape):
    s = site(backend, shape, torch.float64)
    grads = torch.ones_like(s.weight), torch.ones_like(s.weight)
    dz, _ = call(s, relu=False, grads=grads)
    exact = by_autograd(s, 1, True, False)
    for result, name in ((dz, "dz"), (grads[0] - 1, "dweight"), (grads[1] - 1, "dbias")):
        assert torch.allclose(result, exact[name], rtol=0, atol=1e-11)


def test_sums_alone(backend):
    s = site(backend, SHAPE, torch.float32)
    given = first_order(s, 2, True)[:2]
    for batch in (True, False):
        grads, same = ([torch.zeros_like(s.weight) for _ in range(2)] for _ in range(2))
        dz, sums = call(s, 2, batch, grads=grads, input_too=False, given=given)
        assert dz.numel() == 0 and dz.dtype == s.z.dtype
        assert torch.equal(sums, call(s, 2, batch, grads=same, given=given)[1])
        assert torch.equal(grads[0], same[0]) and torch.equal(grads[1], same[1])


def test_sums_that_nothing_needs_are_empty(backend):
    s = site(backend, SHAPE, torch.float32)
    dz, sums = call(s, batch=False)
    assert sums.numel() == 0
    assert torch.equal(dz, call(s, batch=False, grads=(torch.zeros_like(s.weight), None))[0])


def test_no_samples(backend):
    s = site(backend, (0, 3, 2, 2), torch.float32)
    grads = torch.ones_like(s.weight), torch.ones_like(s.weight)
    dz, sums = call(s, 1, False, grads=grads, given=(torch.zeros_like(s.weight)[None], torch.ones_like(s.weight)[None]))
    assert dz.shape == s.z.shape and not sums.any() and all((grad == 1).all() for grad in grads)


@pytest.mark.parametrize("where", ["g", "z"])
def test_nan_goes_where_pytorch_sends_it(backend, where):
    for batch in (True, False):
        s = site(backend, SHAPE, torch.float32)
        getattr(s, where)[1, 2] = float("nan")
        dz, _ = call(s, 2, batch)
        assert torch.equal(dz.isnan(), by_autograd(s, 2, batch, True)["dz"].isnan())


def test_repeats_bit_by_bit(backend):
    s = site(backend, SHAPE, torch.bfloat16)
    for result, same in zip(call(s, 2), call(s, 2), strict=True):
        assert torch.equal(result, same)


def test_wrong_use(backend):
    s = site(backend, SHAPE, torch.float32)
    given = first_order(s, 2, True)[:2]
    with pytest.raises(UserError, match="mean contiguous"):
        call(s, 1, given=given)
    with pytest.raises(UserError, match="M <= 4"):
        call(s, 2, given=given, extra=torch.cat([s.t, s.t]))
    with pytest.raises(UserError, match="one shape, dtype and device"):
        call(s, 2, given=given, extra=s.t[:2, :, :3])
    with pytest.raises(UserError, match="grad_weight contiguous"):
        call(s, 2, given=given, grads=(s.weight.bfloat16(), None))
    with pytest.raises(UserError, match="groups that divide"):
        call(s, 3, given=given)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("input_too", [True, False])
def test_declared_launches(backend, monkeypatch, batch, wanted, input_too):
    s = site(backend, SHAPE, torch.float32)
    given, grads = first_order(s, 2, True)[:2], (torch.zeros_like(s.weight) if wanted else None, None)
    found = launches_of(lambda: call(s, 2, batch, grads=grads, input_too=input_too, given=given), backend, monkeypatch)
    assert found == launches(wanted, False, batch, input_too)


@pytest.mark.parametrize("groups", [1, 2])
def test_many_parts(backend, monkeypatch, groups):
    s = site(backend, (2, 5, 7, 7), torch.float32)
    split_finely(s.z, groups, backend, monkeypatch)
    grads = torch.zeros_like(s.weight), torch.zeros_like(s.weight)
    extra = s.t[:1]
    dz, _ = call(s, groups, extra=extra, grads=grads)
    plain, exact = by_autograd(s, groups, True, True), by_autograd(s.to(torch.float64), groups, True, True)
    for results in (plain, exact):
        results["dz"][:1] += extra
    assert_as_accurate(dz, plain["dz"], exact["dz"], 3)
    assert_as_accurate(grads[0], plain["dweight"], exact["dweight"], 3)
    assert_as_accurate(grads[1], plain["dbias"], exact["dbias"], 3)
