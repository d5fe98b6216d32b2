"""The plain steps of the benchmarks compute what the package computes: float64, the same random numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atlas_fast import objectives, ops
from atlas_fast.engine import AutogradView, program
from bench import reference_step, workload

N, C = 5, 10
METHODS = [*objectives.PAPER, "adv-3", "trades-2", "tradesjac-2", "atlas-2"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Softplus(), nn.Conv2d(6, 8, 3, stride=2),
                         nn.BatchNorm2d(8), nn.Softplus(), nn.Flatten(), nn.Linear(72, C)).double()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(N, 3, 8, 8, dtype=torch.float64, generator=generator),
            torch.randint(C, (N,), generator=generator), ops.make_rng(7))


def crafted(load, model, x, y, rng):
    """The package's x', or None."""
    if not load.steps:
        return None
    return program.craft(load.objective, AutogradView(model), x, y, ramp=1.0, rng=rng)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_objective(method, data):
    (x, y, rng), load, model = data, workload.workload(method), network()
    x_adv = crafted(load, model, x, y, rng)
    (v,) = ops.unit_vectors(rng, N, C).double()
    plain = reference_step.loss(load.method, model, x, x_adv, y, v, **load.weights)
    loss = load.objective(model, x, y, rng=rng)
    assert plain.item() == pytest.approx(loss.item(), rel=1e-12)
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(plain, parameters), torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("plain", "jac")])
def test_adversaries_are_those_of_the_package(method, data):
    (x, y, rng), load, model = data, workload.workload(method), network()
    start = ops.random_start(x, workload.EPS, rng)
    x_adv = reference_step.adversary(load.method, model, x, y, start, eps=workload.EPS, step_size=load.step_size,
                                     steps=load.steps)
    torch.testing.assert_close(x_adv, crafted(load, model, x, y, rng), rtol=0, atol=1e-15)


def test_a_step_is_its_parts(data, monkeypatch):
    """Random start within the ball, unit directions, one update by the gradient of the loss at what was crafted."""
    (x, y, _), model, seen = data, network(), {}
    by_hand = copy.deepcopy(model)
    true_loss, true_adversary = reference_step.loss, reference_step.adversary

    def adversary(method, model, x, y, start, **settings):
        seen["start"] = start
        return true_adversary(method, model, x, y, start, **settings)

    def loss(method, model, x, x_adv, y, v, **weights):
        seen.update(x_adv=x_adv, v=v)
        return true_loss(method, model, x, x_adv, y, v, **weights)

    monkeypatch.setattr(reference_step, "adversary", adversary)
    monkeypatch.setattr(reference_step, "loss", loss)
    reference_step.step("atlas", model, torch.optim.SGD(model.parameters(), lr=0.1), x, y, eps=0.1, step_size=0.125,
                        steps=1, alpha=0.5, beta=2.0)
    assert 0 < (seen["start"] - x).abs().max() <= 0.1 and (seen["x_adv"] - x).abs().max() <= 0.1 + 1e-12
    torch.testing.assert_close(seen["v"].norm(dim=1), torch.ones(N, dtype=torch.float64))
    expected = true_loss("atlas", by_hand, x, seen["x_adv"], y, seen["v"], alpha=0.5, beta=2.0)
    for p, q, g in zip(model.parameters(), by_hand.parameters(),
                       torch.autograd.grad(expected, list(by_hand.parameters())), strict=True):
        torch.testing.assert_close(p, q - 0.1 * g)


def test_kl_is_the_textbook_sum():
    a, b = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    p, q = F.softmax(a, 1), F.softmax(b, 1)
    torch.testing.assert_close(reference_step.kl(a, b), (p * (p / q).log()).sum(1).mean())
