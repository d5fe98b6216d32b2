"""Convolutions by Winograd's algorithm and their gradients: against PyTorch's in float64, for every layout."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from backends import arranged, unchanged

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops import _registry

module = importlib.import_module("atlas_fast.ops.winograd_convolution")
SHAPES = [  # samples, channels, filters, height, width, padding
    (2, 16, 32, 8, 8, 1), (3, 5, 7, 9, 11, 1), (5, 17, 33, 7, 6, 1), (2, 3, 5, 5, 5, 0), (2, 20, 9, 6, 13, 2),
    (1, 1, 1, 1, 1, 1), (1, 4, 4, 3, 300, 1), (9, 64, 48, 32, 32, 1), (40, 200, 34, 4, 4, 1), (2, 640, 640, 8, 8, 1),
]
LAYOUTS = ["contiguous", "channels_last", "permuted", "sliced"]
compiled = _registry.has_kernel("winograd_convolution", "CPU")


@pytest.fixture(params=["reference", "cpp"], autouse=True)
def backend(request, monkeypatch):
    if request.param == "cpp" and not compiled:
        pytest.skip("compiled extension not installed")
    if request.param == "reference":
        monkeypatch.setattr(module, "_op", module.winograd_convolution_reference)
        monkeypatch.setattr(module, "_weight_gradient", module.winograd_weight_gradient_reference)
    return request.param


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def case(samples, channels, filters, height, width, padding):
    """(x, weight, bias, gradient of the outputs)."""
    return (randn(samples, channels, height, width), randn(filters, channels, 3, 3, seed=1), randn(filters, seed=2),
            randn(samples, filters, height + 2 * padding - 2, width + 2 * padding - 2, seed=3))


def exactly(x, weight, bias, g, padding):
    """(y, dx, dw) in float64."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    y = F.conv2d(x, weight, None if bias is None else bias.double(), padding=padding)
    return y.detach(), *torch.autograd.grad(y, (x, weight), g.double())


def error(result, exact):
    """Relative, root of the mean square. float32's unit is 0.6e-7."""
    return ((result.double() - exact).pow(2).mean() / exact.pow(2).mean()).sqrt()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_errors_are_roundings(shape, layout):
    """1e-6 for a thousand products, which PyTorch's own float32 convolutions reach in weight gradients."""
    x, weight, bias, g = case(*shape)
    x, g, padding = arranged(x, layout), arranged(g, layout), shape[-1]
    y, dx, dw = exactly(x, weight, bias, g, padding)
    with unchanged(x, weight, bias, g):
        own_y = ops.winograd_convolution(x, weight, bias, padding)
        own_dx = ops.winograd_convolution(g, weight, padding=2 - padding, adjoint=True)
        own_dw = ops.winograd_weight_gradient(x, g, padding)
    assert error(own_y, y) < 2e-6 and error(own_dx, dx) < 2e-6 and error(own_dw, dw) < 3e-6
    assert own_y.stride() == arranged(own_y, layout).stride() and own_dx.stride() == x.stride()
    assert own_dw.is_contiguous()
    assert error(ops.winograd_convolution(x, weight, None, padding), y - bias.double()[:, None, None]) < 2e-6


@pytest.mark.skipif(not compiled, reason="compiled extension not installed")
@pytest.mark.parametrize("batch, channels, size", [(8, 64, 32), (16, 128, 16), (16, 256, 8)])
def test_errors_are_a_few_times_those_of_the_direct_convolution(batch, channels, size):
    """Measured: 1.1 (a weight gradient) to 5.5 times oneDNN's, which sums in blocks."""
    x, weight, _, g = case(batch, channels, channels, size, size, 1)
    y, dx, dw = exactly(x, weight, None, g, 1)
    plain_y = F.conv2d(x, weight, padding=1)
    plain_dx = F.conv_transpose2d(g, weight, padding=1)
    plain_dw = torch.nn.grad.conv2d_weight(x, weight.shape, g, padding=1)
    assert error(ops.winograd_convolution(x, weight), y) < 7 * error(plain_y, y)
    assert error(ops.winograd_convolution(g, weight, adjoint=True), dx) < 7 * error(plain_dx, dx)
    assert error(ops.winograd_weight_gradient(x, g), dw) < 7 * error(plain_dw, dw)


def error_of_points(a, b, channels=64, tiles=200):
    """Of F(4x4, 3x3) in float32 at the points 0, +-a, +-b and infinity, with sums one after the other."""
    rows, columns, kernel = (torch.zeros(n, dtype=torch.float64) for n in ((6, 6), (4, 6), (6, 3)))
    nodes = [0.0, a, -a, b, -b]
    for i, p in enumerate(nodes):
        others = torch.ones(1, dtype=torch.float64)  # the product of (x - q) for the other points q, lowest power first
        for q in nodes[:i] + nodes[i + 1:]:
            others = torch.cat([-q * others, torch.zeros(1)]) + torch.cat([torch.zeros(1), others])
        rows[i, :5] = others
        kernel[i] = torch.tensor([1, p, p * p]) / sum(c * p**k for k, c in enumerate(others.tolist()))
        columns[:, i] = torch.tensor([1, p, p**2, p**3])
    rows[5] = torch.tensor([0, a * a * b * b, 0, -(a * a + b * b), 0, 1])
    columns[3, 5] = kernel[5, 2] = 1
    d, w = randn(tiles, channels, 6, 6), randn(channels, 3, 3, seed=1)
    exact = F.conv2d(d.double(), w.double()[None])[:, 0]
    rows, columns, kernel = rows.float(), columns.float(), kernel.float()
    points, weights = rows @ d @ rows.T, kernel @ w @ kernel.T
    products = torch.zeros(tiles, 6, 6)
    for c in range(channels):
        products += points[:, c] * weights[c]
    return error(columns @ products @ columns.T, exact)


def test_the_points_halve_the_rounding_error():
    """Against those of Lavin and Gray."""
    assert error_of_points(0.75, 1.5) < 0.6 * error_of_points(1.0, 2.0) < 1.5e-6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_any_mixture_of_layouts(layout, other):
    x, weight, bias, g = case(3, 18, 20, 10, 9, 1)
    y, dw = ops.winograd_convolution(x, weight, bias), ops.winograd_weight_gradient(x, g)
    for own_weight in (weight, arranged(weight, other)):
        assert torch.allclose(ops.winograd_convolution(arranged(x, layout), own_weight, bias), y, rtol=0, atol=1e-4)
    own = ops.winograd_weight_gradient(arranged(x, layout), arranged(g, other))
    assert torch.allclose(own, dw, rtol=0, atol=1e-4)


def test_threads_and_batches_do_not_matter(backend):
    if backend == "reference":
        pytest.skip("PyTorch's convolutions promise no such thing")
    x, weight, bias, g = case(9, 48, 80, 20, 20, 1)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((ops.winograd_convolution(x, weight, bias),
                            ops.winograd_convolution(g, weight, adjoint=True), ops.winograd_weight_gradient(x, g)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
    assert torch.equal(ops.winograd_convolution(x[4:7].contiguous(), weight, bias), results[0][0][4:7])


def test_nothing():
    assert ops.winograd_convolution(torch.rand(0, 3, 8, 8), torch.rand(5, 3, 3, 3)).shape == (0, 5, 8, 8)
    dw = ops.winograd_weight_gradient(torch.rand(0, 3, 8, 8), torch.rand(0, 5, 8, 8))
    assert torch.equal(dw, torch.zeros(5, 3, 3, 3))


def test_what_is_not_finite_is_not_lost():
    x, weight, _, g = case(1, 16, 16, 8, 8, 1)
    x[0, 3, 5, 6] = torch.nan
    assert ops.winograd_convolution(x, weight)[0, :, 4:7, 5:].isnan().all()
    assert ops.winograd_weight_gradient(x, g)[:, 3].isnan().all()


@pytest.mark.parametrize("name", ["contiguous", "channels_last", "permuted", "sliced", "empty"])
@pytest.mark.parametrize("operation", ["winograd_convolution", "adjoint", "winograd_weight_gradient"])
def test_opcheck(name, operation):
    layout = "contiguous" if name == "empty" else name
    x, weight, bias, g = case(0 if name == "empty" else 2, 3, 5, 6, 7, 0)
    arguments = {"winograd_convolution": (arranged(x, layout), weight, bias, 0, False),
                 "adjoint": (arranged(g, layout), weight, None, 2, True),
                 "winograd_weight_gradient": (arranged(x, layout), g, 0)}[operation]
    name = "winograd_convolution" if operation == "adjoint" else operation
    torch.library.opcheck(getattr(torch.ops.atlas_fast, name).default, arguments)


X, WEIGHT = torch.rand(2, 4, 8, 8), torch.rand(6, 4, 3, 3)


@pytest.mark.parametrize("message, call", [
    ("needs tensors", lambda: ops.winograd_convolution(X, [1.0])),
    ("float32 tensors of 4 dimensions", lambda: ops.winograd_convolution(X.double(), WEIGHT.double())),
    ("float32 tensors of 4 dimensions", lambda: ops.winograd_weight_gradient(X, X[0])),
    ("3x3 kernels for the 4 channels", lambda: ops.winograd_convolution(X, torch.rand(6, 4, 5, 5))),
    ("3x3 kernels for the 4 channels", lambda: ops.winograd_convolution(X, WEIGHT, adjoint=True)),
    ("padding of 0, 1 or 2", lambda: ops.winograd_convolution(X, WEIGHT, padding=3)),
    ("padding of 0, 1 or 2", lambda: ops.winograd_weight_gradient(X, X, padding=True)),
    ("not smaller than the kernel", lambda: ops.winograd_convolution(X[:, :, :2], WEIGHT, padding=0)),
    ("bias with a number a filter", lambda: ops.winograd_convolution(X, WEIGHT, torch.rand(4))),
    ("gradients of the outputs", lambda: ops.winograd_weight_gradient(X, X, padding=0)),
    ("gradients of the outputs", lambda: ops.winograd_weight_gradient(X, X[:1])),
])
def test_wrong_use(message, call):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.skipif(not compiled, reason="compiled extension not installed")
@pytest.mark.parametrize("arguments", [
    (X.double(), WEIGHT.double(), None, 1, False), (X, WEIGHT, None, 1, True), (X, WEIGHT[:, :, :2], None, 1, False),
    (X, WEIGHT, torch.rand(4), 1, False), (X, WEIGHT, None, 3, False), (X[:, :, :2], WEIGHT, None, 0, False)])
def test_the_operation_itself_refuses_what_it_cannot_read(arguments):
    with pytest.raises(RuntimeError, match="winograd_convolution|expected|should be"):
        torch.ops.atlas_fast.winograd_convolution(*arguments)
    with pytest.raises(RuntimeError, match="winograd_convolution|expected|should be"):
        torch.ops.atlas_fast.winograd_weight_gradient(X, X[:, :, 1:], 1)
