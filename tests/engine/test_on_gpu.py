"""On a CUDA device: gradients of every way to run a step against float64 on the CPU."""

import copy

import pytest
import torch
from comparing import family, gradients, objective_of

from atlas_fast import models, objectives
from atlas_fast.engine import AutogradView, SweepView
from atlas_fast.engine.beside import Beside
from atlas_fast.engine.rules import fused_norm, native_norm

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

EPS = 1e-6  # a pixel whose gradient has another sign in float32 moves x' by no more


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def flat(grads):
    return torch.cat([g.double().flatten().cpu() for g in grads.values()])


def network(name):
    if name == "wide_resnet-10-4":
        torch.manual_seed(0)
        return models.wide_resnet(10, 4, 5).double(), torch.rand(8, 3, 16, 16, dtype=torch.float64), torch.arange(8) % 5
    return family(name)


def both(name, method, layout, amp=None, **options):
    """(gradients of the sweeps on the device, of plain autograd there, exact ones)."""
    model, x, y = network(name)
    objective = objective_of(method, eps=EPS)
    exact = flat(gradients(AutogradView(copy.deepcopy(model)), objective, x, y)[1])
    x, y = x.float().cuda().contiguous(memory_format=layout), y.cuda()
    results = []
    for view, extra in ((SweepView, options), (AutogradView, {})):
        own = copy.deepcopy(model).float().to("cuda", memory_format=layout)
        results.append(flat(gradients(view(own, amp=amp, **extra), objective, x, y)[1]))
    return *results, exact


def error(grads, exact):
    return ((grads - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize("name", ["small_cnn", "wide_resnet", "wide_resnet-10-4"])
@pytest.mark.parametrize("method", list(objectives.PRESETS))
def test_float32(method, name, layout):
    sweeps, autograd, exact = both(name, method, layout)
    assert error(sweeps, exact) <= 3 * error(autograd, exact) + 1e-6


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("method", ["atlas", "tradesjac"])
def test_pairs_and_streams(method, pair, overlap):
    beside = Beside(torch.device("cuda")) if overlap else None
    sweeps, autograd, exact = both("wide_resnet-10-4", method, torch.channels_last, pair=pair, beside=beside)
    assert error(sweeps, exact) <= 3 * error(autograd, exact) + 1e-6


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("method", ["adv", "jac", "atlas", "tradesjac"])
def test_bfloat16(method, pair):
    sweeps, autograd, exact = both("wide_resnet-10-4", method, torch.channels_last, torch.bfloat16, pair=pair)
    assert error(sweeps, exact) <= 3 * error(autograd, exact)


def test_channels_last_takes_the_fused_kernels(monkeypatch):
    def never(*args):
        raise AssertionError("PyTorch's kernels were called")

    monkeypatch.setattr(native_norm, "forward", never)
    assert fused_norm.triton_available()
    both("wide_resnet-10-4", "atlas", torch.channels_last)
