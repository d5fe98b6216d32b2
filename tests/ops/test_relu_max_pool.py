"""ReLU and max pooling in one pass: against PyTorch and its autograd, for every kind of window and layout."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from backends import DTYPES, arranged, assert_as_accurate, unchanged

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops import _registry
from atlas_fast.ops.relu_max_pool import NONE

module = importlib.import_module("atlas_fast.ops.relu_max_pool")  # the package shows the function by this name
WINDOWS = [  # kernel, stride, padding, dilation, ceil_mode
    ((2, 2), (2, 2), (0, 0), (1, 1), False),
    ((3, 3), (2, 2), (1, 1), (1, 1), False),
    ((3, 3), (1, 1), (1, 1), (1, 1), False),
    ((3, 2), (3, 2), (1, 0), (2, 1), True),
    ((2, 3), (1, 3), (1, 1), (1, 2), True),
    ((1, 1), (2, 2), (0, 0), (1, 1), False),
    ((5, 4), (4, 5), (2, 2), (1, 1), True),
    ((2, 2), (3, 3), (1, 1), (1, 1), False),
    ((3, 3), (2, 1), (0, 1), (3, 2), True),
]
SHAPES = [(2, 3, 11, 13), (1, 17, 8, 8), (2, 16, 35, 37), (1, 1, 9, 40), (2, 5, 7, 70)]
LAYOUTS = ["contiguous", "channels_last", "permuted", "sliced"]


@pytest.fixture(params=["reference", "cpp", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Where tensors belong; the public functions run the reference or the C++ kernels there."""
    if request.param == "cuda":
        return "cuda"
    if request.param == "cpp" and not _registry.has_kernel("relu_max_pool", "CPU"):
        pytest.skip("compiled extension not installed")
    if request.param == "reference":
        for name in ("", "_backward", "_tangent"):
            monkeypatch.setattr(module, name or "_op", getattr(module, f"relu_max_pool{name}_reference"))
    return "cpu"


def randn(shape, device, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def tied(shape, device, dtype):
    """Images of few values, so that windows hold their maximum several times; every 37th pixel is NaN."""
    x = randn(shape, device, dtype).mul(2).round().div(2)
    x.view(-1)[::37] = float("nan")
    return x


def strides(x):
    """Those of the results: channels-last for channels-last images, contiguous for all others."""
    return torch.channels_last if not x.is_contiguous() and x.is_contiguous(
        memory_format=torch.channels_last) else torch.contiguous_format


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_values_ties_and_nan(device, shape, window, dtype, layout):
    """y, which pixel was chosen, and NaN are PyTorch's exactly; autograd says which pixel it chose."""
    x = arranged(tied(shape, device, dtype), layout).requires_grad_()
    with unchanged(x.detach().nan_to_num(7)):
        y, codes = ops.relu_max_pool(x, *window)
    expected = F.max_pool2d(x.relu(), *window)
    assert torch.equal(y.nan_to_num(99), expected.detach().nan_to_num(99)) and y.dtype == dtype
    assert torch.equal(codes == NONE, expected <= 0) and not y.requires_grad
    kernel, stride, padding, dilation, _ = window
    g = torch.ones_like(y)  # sums of ones are exact
    dx = ops.relu_max_pool_backward(g, codes, shape[2:], kernel, stride, padding, dilation)
    assert torch.equal(dx, torch.autograd.grad(expected, x, g)[0])
    assert dx.dtype == dtype
    assert all(result.is_contiguous(memory_format=strides(x)) for result in (y, codes, dx))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_backward_and_tangent(device, window, dtype, layout):
    x, t = (arranged(randn((2, 16, 19, 21), device, dtype, seed), layout) for seed in (0, 1))
    *geometry, ceil_mode = window
    y, codes = ops.relu_max_pool(x, *window)
    g = arranged(randn(y.shape, device, dtype, 2), layout)

    def plain(dtype):
        """PyTorch's gradient, and the derivative along t by a second one."""
        point, cotangent = x.to(dtype).requires_grad_(), g.to(dtype).requires_grad_()
        (dx,) = torch.autograd.grad(F.max_pool2d(point.relu(), *window), point, cotangent, create_graph=True)
        return dx.detach(), torch.autograd.grad(dx, cotangent, t.to(dtype))[0]

    with unchanged(g, t, codes):
        dx = ops.relu_max_pool_backward(g, codes, x.shape[2:], *geometry)
        tangent = ops.relu_max_pool_tangent(t, codes, *geometry)
    (plain_dx, plain_tangent), (exact, _) = plain(dtype), plain(torch.float64)
    assert_as_accurate(dx, plain_dx, exact, 2)
    assert torch.equal(tangent, plain_tangent)
    assert tangent.is_contiguous(memory_format=strides(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_any_mixture_of_layouts(device, layout, other):
    x, t = randn((2, 3, 8, 6), device), randn((2, 3, 8, 6), device, seed=1)
    window = ((3, 3), (2, 2), (1, 1))
    y, codes = ops.relu_max_pool(x, *window)
    own_y, own = ops.relu_max_pool(arranged(x, layout), *window)
    assert torch.equal(own_y, y) and torch.equal(own, codes)
    dx = ops.relu_max_pool_backward(arranged(y, other), own, (8, 6), *window)
    tangent = ops.relu_max_pool_tangent(arranged(t, other), own, *window)
    assert torch.equal(dx, ops.relu_max_pool_backward(y, codes, (8, 6), *window))
    assert torch.equal(tangent, ops.relu_max_pool_tangent(t, codes, *window))
    assert all(result.is_contiguous(memory_format=strides(own)) for result in (own_y, dx, tangent))


def test_infinities(device):
    x = torch.tensor([[-torch.inf, -1.0, 2.0, torch.inf], [-torch.inf, -torch.inf, -0.0, -1.0]], device=device)
    y, codes = ops.relu_max_pool(x[None, None], (2, 2), (2, 2))
    assert y.tolist() == [[[[0.0, torch.inf]]]] and codes.tolist() == [[[[NONE, 1]]]]
    t = torch.full((1, 1, 2, 4), torch.inf, device=device)  # what no window chose does not spread
    assert ops.relu_max_pool_tangent(t, codes, (2, 2), (2, 2)).tolist() == [[[[0.0, torch.inf]]]]
    g = torch.full((1, 1, 1, 2), torch.nan, device=device)
    assert ops.relu_max_pool_backward(g, codes, (2, 4), (2, 2), (2, 2)).isnan().sum() == 1


def test_no_samples(device):
    x = torch.rand(0, 3, 8, 8, device=device)
    y, codes = ops.relu_max_pool(x, (2, 2), (2, 2))
    assert y.shape == codes.shape == (0, 3, 4, 4)
    assert ops.relu_max_pool_backward(y, codes, (8, 8), (2, 2), (2, 2)).shape == x.shape
    assert ops.relu_max_pool_tangent(x, codes, (2, 2), (2, 2)).shape == y.shape


def test_windows_of_255_pixels(device):
    x = -torch.rand(1, 2, 16, 18, device=device)
    x[:, :, 14, 16] = 1.0  # the last place of the first of four windows
    y, codes = ops.relu_max_pool(x, (15, 17), (1, 1))
    assert codes[0].tolist() == [[[254, 253], [237, 236]]] * 2
    assert torch.equal(y, F.max_pool2d(x.relu(), (15, 17), 1))
    dx = ops.relu_max_pool_backward(torch.ones_like(y), codes, (16, 18), (15, 17), (1, 1))
    assert dx[0, 0, 14, 16] == (y[0, 0] > 0).sum()


@pytest.mark.skipif(not _registry.has_kernel("relu_max_pool", "CPU"), reason="compiled extension not installed")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_foreign_codes_touch_no_other_memory(layout):
    """Codes that no window of this geometry gives count as none, or lead to a pixel of the same plane."""
    window = ((3, 3), (2, 2), (1, 1))
    for code in range(256):
        codes = arranged(torch.full((1, 2, 4, 4), code, dtype=torch.uint8), layout)
        dx = ops.relu_max_pool_backward(torch.ones(1, 2, 4, 4), codes, (8, 8), *window)
        tangent = ops.relu_max_pool_tangent(torch.ones(1, 2, 8, 8), codes, *window)
        assert torch.isin(dx, torch.arange(5.0)).all() and torch.isin(tangent, torch.arange(2.0)).all()
        assert code < 9 or (dx.sum() == 0 and tangent.sum() == 0)


def test_threads_do_not_matter():
    x, g = randn((3, 5, 64, 66), "cpu", torch.float32), randn((3, 5, 32, 33), "cpu", torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for layout in ("contiguous", "channels_last"):
                y, codes = ops.relu_max_pool(arranged(x, layout), (3, 3), (2, 2), (1, 1))
                results.append((y, codes, ops.relu_max_pool_backward(g, codes, (64, 66), (3, 3), (2, 2), (1, 1)),
                                ops.relu_max_pool_tangent(x, codes, (3, 3), (2, 2), (1, 1))))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


X, CODES = torch.rand(1, 2, 8, 8), torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
HALVES = ((2, 2), (2, 2))


@pytest.mark.parametrize("error, message, call", [
    (UserError, "float32, float64 or bfloat16 images", lambda: ops.relu_max_pool(X.half(), *HALVES)),
    (UserError, r"images \[N,C,H,W\]", lambda: ops.relu_max_pool(X[0], *HALVES)),
    (UserError, "at most 255 pixels, got 16x16", lambda: ops.relu_max_pool(X, (16, 16), (1, 1))),
    (UserError, "uint8 codes", lambda: ops.relu_max_pool_tangent(X, CODES.int(), *HALVES)),
    (UserError, "uint8 codes", lambda: ops.relu_max_pool_tangent(X, CODES[:, :1], *HALVES)),
    (UserError, "g and codes of one shape", lambda: ops.relu_max_pool_backward(X, CODES, (8, 8), *HALVES)),
    (RuntimeError, "half", lambda: ops.relu_max_pool(X, (2, 2), (2, 2), (2, 2))),
    (RuntimeError, "smaller than the window|too small", lambda: ops.relu_max_pool(X, (9, 9), (1, 1))),
    (RuntimeError, "positive|zero", lambda: ops.relu_max_pool(X, (2, 2), (0, 2))),
])
def test_wrong_use(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(not _registry.has_kernel("relu_max_pool", "CPU"), reason="compiled extension not installed")
def test_codes_of_another_geometry_are_refused():
    with pytest.raises(RuntimeError, match="codes of other windows"):
        ops.relu_max_pool_tangent(torch.rand(1, 2, 20, 20), CODES, *HALVES)
    with pytest.raises(RuntimeError, match="codes of other windows"):
        ops.relu_max_pool_backward(torch.rand(CODES.shape), CODES, (6, 6), *HALVES)
