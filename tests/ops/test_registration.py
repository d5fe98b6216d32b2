"""The operations as torch.ops, on whatever serves each device: opcheck, torch.compile, and the table of backends."""

import pytest
import torch
from backends import OPERATIONS, POOLING, WITHOUT_TRITON, arranged

from atlas_fast import ops

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
IMAGES = {
    "contiguous": lambda: torch.rand(2, 3, 4, 6),
    "channels_last": lambda: arranged(torch.rand(2, 3, 4, 6), "channels_last"),
    "permuted": lambda: arranged(torch.rand(2, 3, 4, 6), "permuted"),
    "sliced": lambda: arranged(torch.rand(2, 3, 4, 6), "sliced"),
    "empty": lambda: torch.rand(0, 3, 4, 6),
    "one": lambda: torch.rand(1, 1),
}


def call(name, x, rng):
    """Schema arguments of operation `name` for images x."""
    eps = torch.tensor(0.1, device=x.device)
    logits = x.flatten(1)[:, :3] if x.numel() else x.new_empty(0, 3)
    target = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    z = x if x.dim() == 4 else x[:, :, None, None]
    batch, (weight, bias, mean, rstd) = len(z) > 1, x.new_ones(4, z.shape[1]).unbind()
    grads = [torch.zeros_like(weight) for _ in range(2)]
    given = (z - 0.5, z, mean[None], rstd[None], weight, bias)
    return {
        "random_bits": (rng, len(x), 5, 1, 2),
        "random_start": (x, 0.5, eps, rng, 0, 1),
        "pgd_step": (x, x + 0.01, x - 0.5, 0.1, None, 1.0, eps),
        "fgsm": (x, x - 0.5, 1.0, eps, 0.125, None, rng, 0, 1),
        "unit_vectors": (rng, len(x), 3, 2, 1, 0),
        "squared_norm": (x, 0.5, 1.0, eps, True),
        "ce_kl": (logits, logits * 2, target, 5.0, None, True, 0.1),
        "norm_relu": (z, z + 1, weight, bias, *grads, 1, batch, 0.1, 1e-5, True, None, True),
        "norm_relu_backward": (*given, z + 1, z[:1], *grads, 1, batch, True, True, None),
        "norm_relu_tangent": (z + 1, z + 2, *given, x.new_ones(2, 1, z.shape[1]), grads[0], 1, batch, True, None, True),
        "crop_flip": (x if x.dim() == 4 else x[..., None, None], rng, 2, True, target, len(x) % 2 == 0, 3, 1),
    }[name]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_opcheck(name, images, device):
    arguments = call(name, IMAGES[images]().to(device), ops.make_rng(1, 2, device))
    checks = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if (name, images) == ("ce_kl", "empty"):
        checks.pop()  # it compares results, and a mean of nothing is NaN
    torch.library.opcheck(getattr(torch.ops.atlas_fast, name).default, arguments, test_utils=checks)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("arguments", ["squared_norm without gradient", "ce_kl without second", "norm_relu alone",
                                       "norm_relu of statistics", "norm_relu with statistics",
                                       "norm_relu_backward of sums", "norm_relu_backward alone",
                                       "norm_relu_backward with sums", "norm_relu_tangent alone",
                                       "norm_relu_tangent of sums", "norm_relu_tangent with sums",
                                       "crop_flip without rng and index"])
def test_opcheck_of_optional_parts(arguments, device):
    x, z = torch.rand(4, 5, device=device), torch.rand(4, 2, 3, 3, device=device)
    target, sums = torch.zeros(4, dtype=torch.int64, device=device), torch.rand(2, 2, 2, device=device)
    name, without = arguments.split()[0], (None, None)
    given = {
        "squared_norm without gradient": (x, 0.5, 1.0, None, False),
        "ce_kl without second": (x, None, target, 0.0, None, False, 0.0),
        "norm_relu alone": (z, None, *without, *without, 2, True, 0.1, 1e-5, False, None, True),
        "norm_relu of statistics": (z, z, *without, *without, 2, True, 0.0, 0.0, False, None, False),
        "norm_relu with statistics": (z, z, *without, *without, 2, True, 0.0, 1e-5, False, sums, True),
        "norm_relu_backward of sums": (z, z, *sums, *without, *without, *without, 2, True, False, False, None),
        "norm_relu_backward with sums": (z, z, *sums, *without, *without, *without, 2, True, False, True, sums + 1),
        "norm_relu_backward alone": (z, z, *sums, *without, *without, *without, 2, False, False, True, None),
        "crop_flip without rng and index": (x[..., None, None].byte(), None, 0, False, None, True, 3, 0),
        "norm_relu_tangent alone": (z, None, z, z, *sums, *without, sums, None, 2, False, False, None, True),
        "norm_relu_tangent of sums": (z, z, z, z, *sums, *without, sums, None, 2, True, False, None, False),
        "norm_relu_tangent with sums": (z, None, z, z, *sums, *without, sums, None, 2, True, False,
                                        torch.rand(3, 2, 2, device=device), True),
    }[arguments]
    torch.library.opcheck(getattr(torch.ops.atlas_fast, name).default, given)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("images", ["contiguous", "channels_last", "permuted", "sliced", "empty"])
@pytest.mark.parametrize("name", POOLING)
def test_opcheck_of_pooling(name, images, device):
    x = (IMAGES[images]() - 0.5).to(device)
    window = ((2, 3), (2, 2), (0, 1), (1, 1))
    y, codes = ops.relu_max_pool(x, *window)
    arguments = {"relu_max_pool": (x, *window, False), "relu_max_pool_backward": (y, codes, x.shape[2:], *window),
                 "relu_max_pool_tangent": (x, codes, *window)}[name]
    torch.library.opcheck(getattr(torch.ops.atlas_fast, name).default, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_images_equal_eager(device):
    def craft(x, grad, eps, rng):
        start = ops.random_start(x, eps, rng)
        fused = ops.fgsm(x, grad, eps, 0.125, rng)
        return start, ops.pgd_step(x, start, grad, eps, 0.125), fused

    x, eps = torch.rand(2, 3, 4, 6, device=device), torch.tensor(0.1, device=device)
    arguments = (x, x - 0.5, eps, ops.make_rng(1, 2, device))
    torch._dynamo.reset()
    compiled = torch.compile(craft, fullgraph=True, backend="aot_eager")(*arguments)
    for result, expected in zip(compiled, craft(*arguments), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_losses_and_gradients_equal_eager(device):
    def loss(first, second, target, beta, rng):
        directions = ops.unit_vectors(rng, 4, 5)[0]
        penalty, _ = ops.squared_norm(directions * 2, 0.5)
        return ops.ce_kl(first, second, target, beta, label_smoothing=0.1) + penalty

    torch.manual_seed(0)
    first, second = (torch.randn(4, 5, device=device, requires_grad=True) for _ in range(2))
    target, beta = torch.arange(4, device=device), torch.tensor(5.0, device=device)
    arguments = (first, second, target, beta, ops.make_rng(1, 2, device))
    torch._dynamo.reset()
    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        value = function(*arguments)
        results.append((value, *torch.autograd.grad(value, (first, second))))
    for expected, result in zip(*results, strict=True):
        assert torch.equal(result, expected)


def test_table_of_backends():
    table = ops.backends()
    assert set(table) == {*OPERATIONS, *WITHOUT_TRITON}
    for serving in table.values():
        assert set(serving) == {"cpu", "cuda"}
        assert serving["cpu"][0] in ("C++", "PyTorch reference")
        assert all(isinstance(why, str) and why for _, why in serving.values())
