"""Which convolutions take Winograd's algorithm, and what a float32 step makes of it on a CPU."""

import pytest
import torch
from comparing import atlas, gradients, objective_of, stirred
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_fast import models, ops
from atlas_fast.engine import AutogradView, FastNetwork, SweepView, convolution_kernels, program
from atlas_fast.ops.winograd_convolution import _has_wide_kernel

aten = torch.ops.aten
compiled = pytest.mark.skipif(not _has_wide_kernel(), reason="no compiled kernels for AVX2 or AVX-512")


class Called(TorchDispatchMode):
    """Which operations ran, by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func).split(".")[1])
        return func(*args, **(kwargs or {}))

    def winograd(self) -> set[str]:
        return {name for name in self.names if name.startswith("winograd")}

    def direct(self) -> int:
        return sum(name.startswith("convolution") for name in self.names)


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


GEOMETRIES = {  # name: (channels, filters, size, kernel, stride, padding, dilation, groups, which kernels)
    "3x3": (16, 32, 12, 3, 1, 1, 1, 1, "winograd"),
    "3x3 without padding": (32, 16, 12, 3, 1, 0, 1, 1, "winograd"),
    "3x3 with padding 2": (16, 16, 9, 3, 1, 2, 1, 1, "winograd"),
    "padding 3": (16, 16, 9, 3, 1, 3, 1, 1, "PyTorch"),
    "stride 2": (16, 32, 12, 3, 2, 1, 1, 1, "PyTorch"),
    "dilation 2": (16, 32, 12, 3, 1, 2, 2, 1, "PyTorch"),
    "groups": (32, 32, 12, 3, 1, 1, 1, 2, "PyTorch"),
    "few channels": (3, 32, 12, 3, 1, 1, 1, 1, "PyTorch"),
    "5x5": (16, 32, 12, 5, 1, 2, 1, 1, "PyTorch"),
    "1x1": (6, 10, 12, 1, 1, 0, 1, 1, "products"),
    "1x1 of stride 2": (6, 10, 17, 1, 2, 0, 1, 1, "products"),
    "1x1 of stride 3": (6, 10, 24, 1, 3, 0, 1, 1, "products"),
    "1x1 to few pixels": (6, 10, 7, 1, 1, 0, 1, 1, "PyTorch"),
    "1x1 with padding": (6, 10, 12, 1, 1, 1, 1, 1, "PyTorch"),
    "1x1 of groups": (6, 10, 12, 1, 1, 0, 1, 2, "PyTorch"),
}


@compiled
@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_choice(name, dtype, with_bias):
    channels, filters, size, kernel, stride, padding, dilation, groups, kind = GEOMETRIES[name]
    kind = kind if dtype == torch.float32 else "PyTorch"
    geometry = (*((n, n) for n in (stride, padding, dilation)), False, (0, 0), groups)
    x, weight = randn(8, channels, size, size), randn(filters, channels // groups, kernel, kernel, seed=1)
    bias = randn(filters, seed=2) if with_bias else None
    exact = aten.convolution(x.double(), weight.double(), bias.double() if with_bias else None, *geometry)
    g = randn(*exact.shape, seed=3)
    all_exact = aten.convolution_backward(g.double(), x.double(), weight.double(), (filters,), *geometry, (True,) * 3)
    x, weight, bias, g = (t if t is None else t.to(dtype) for t in (x, weight, bias, g))
    with Called() as called:
        y = convolution_kernels.convolve(x, weight, bias, geometry)
        found = convolution_kernels.gradients(g, x, weight, geometry, (True, True, True))
    assert called.winograd() == ({"winograd_convolution", "winograd_weight_gradient"} if kind == "winograd" else set())
    assert called.direct() == (2 if kind == "PyTorch" else 0)
    assert convolution_kernels.is_faster(x, weight, geometry) == (kind != "PyTorch")
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 0.05}[dtype]
    for result, expected in zip((y, *found), (exact, *all_exact), strict=True):
        assert result.dtype == dtype and result.shape == expected.shape
        assert (result.double() - expected).norm() <= tolerance * expected.norm()
    for wanted in ((True, False, False), (False, True, False), (False, False, True)):
        parts = convolution_kernels.gradients(g, x, weight, geometry, wanted)
        assert all(part is not None for part, asked in zip(parts, wanted, strict=True) if asked)
    with convolution_kernels.pytorchs(), Called() as called:
        convolution_kernels.convolve(x, weight, bias, geometry)
        convolution_kernels.gradients(g, x, weight, geometry, (True, True, True))
    assert called.direct() == 2 and not called.winograd()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_channels_last_products_are_left_to_pytorch(layout):
    x, weight = randn(2, 6, 12, 12).contiguous(memory_format=layout), randn(10, 6, 1, 1)
    geometry = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    with Called() as called:
        y = convolution_kernels.convolve(x, weight, None, geometry)
    assert called.direct() == (layout == torch.channels_last) and y.is_contiguous(memory_format=layout)


@compiled
def test_images_too_few_too_small_or_too_large_for_it():
    geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    weight = randn(16, 16, 3, 3)
    for shape, own in (((1, 16, 8, 8), False), ((8, 16, 4, 4), True), ((64, 16, 3, 3), False), ((1, 16, 32, 32), True),
                       ((1, 16, 128, 128), True), ((1, 16, 132, 128), False)):
        with Called() as called:
            convolution_kernels.convolve(randn(*shape), weight, None, geometry)
        assert bool(called.winograd()) == own, shape


@pytest.mark.parametrize("kernel, padding", [(3, 1), (1, 0)])
def test_errors_are_pytorchs(kernel, padding):
    geometry = ((1, 1), (padding, padding), (1, 1), False, (0, 0), 1)
    weight = randn(16, 20, kernel, kernel)
    with pytest.raises(RuntimeError, match="to have 20 channels, but got 16"):
        convolution_kernels.convolve(randn(4, 16, 16, 16), weight, None, geometry)
    with pytest.raises(RuntimeError, match="Expected 4-dimensional input"):
        convolution_kernels.convolve(randn(20, 16, 16), weight, None, geometry)


def wide_resnet():
    """32 channels and more behind the first layer; 8 images of 16x16 are enough for Winograd's in the last stage."""
    torch.manual_seed(0)
    return stirred(models.wide_resnet(10, 2, 5), torch.float32)


def images():
    return torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 5


def step_gradients(view, objective, dtype):
    """Of an x' that is given: one that is made differs where rounding turns a sign."""
    x, y = images()
    x_adv = (x + 0.05 * randn(*x.shape, seed=2).sign()).clamp(0, 1)
    model = wide_resnet().to(dtype)
    program.prepare(objective, view(model), x.to(dtype), y, rng=ops.make_rng(3, 1),
                    crafted=(x_adv.to(dtype), None)).accumulate()
    return {name: p.grad.double() for name, p in model.named_parameters()}


@compiled
@pytest.mark.parametrize("view", [AutogradView, SweepView])
@pytest.mark.parametrize("method", ["atlas", "trades"])
def test_a_step_has_the_gradients_of_float64(view, method):
    """Errors of the order that a step of direct convolutions has."""
    objective = objective_of(method)
    exact = step_gradients(view, objective, torch.float64)

    def error_of_a_step():
        with Called() as called:
            grads = step_gradients(view, objective, torch.float32)
        return called, max((grads[name] - g).norm() / g.norm() for name, g in exact.items() if g.norm() > 1e-6)

    called, error = error_of_a_step()
    assert called.winograd() == {"winograd_convolution", "winograd_weight_gradient"}
    with convolution_kernels.pytorchs():
        called, direct = error_of_a_step()
    assert not called.winograd()
    assert error < 8 * direct


@compiled
@pytest.mark.parametrize("view", [AutogradView, SweepView])
def test_every_pass_takes_it(view):
    """WRN-10-2 has 4 convolutions of 3x3 and stride 1 behind 16 channels or more: all their passes are Winograd's."""
    x, y = images()
    with Called() as called:
        gradients(view(wide_resnet()), atlas(), x, y)
    # 4 forward passes (start, x', x, tangent), 4 back to images or activations (attack, v^T J, x', x)
    assert called.names.count("winograd_convolution") == 4 * 8
    assert called.names.count("winograd_weight_gradient") == 4 * 3


@compiled
def test_attacks_take_it():
    model = wide_resnet().eval()
    x, _ = images()
    with Called() as called:
        logits, gradient = FastNetwork(model).gradient(x, lambda z: torch.ones_like(z))
    assert called.names.count("winograd_convolution") == 4 * 2
    x.requires_grad_()
    expected = model(x)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0], rtol=1e-3, atol=1e-3)
