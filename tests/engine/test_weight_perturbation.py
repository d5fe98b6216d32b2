"""Adversarial weight perturbation against its formula, written by hand in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from comparing import FAMILIES, KEYWORDS, family, objective_of
from test_capture import Recorder

from atlas_fast import ops
from atlas_fast.engine import AutogradView, TrainingStep, program
from atlas_fast.engine.capture import WARM_UP, Captured
from atlas_fast.errors import UserError

GAMMA = 0.01


def sgd(model, **changes):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.0625, "momentum": 0.9, "weight_decay": 1e-3, **changes})


def kl(a, b):
    return (a.softmax(1) * (a.log_softmax(1) - b.log_softmax(1))).sum(1).mean()


def loss_of(method, model, x, x_adv, y, rng):
    """The paper's losses, x' before x in the order of BatchNorm."""
    if method == "plain":
        return F.cross_entropy(model(x), y)
    x_adv = x_adv.detach().requires_grad_()
    z_adv = model(x_adv)
    if method == "adv":
        return F.cross_entropy(z_adv, y)
    z = model(x)
    if method == "trades":
        return F.cross_entropy(z, y) + KEYWORDS["beta"] * kl(z, z_adv)
    (v,) = ops.unit_vectors(rng, *z.shape).double()
    (g,) = torch.autograd.grad(z_adv, x_adv, v, create_graph=True)
    jacobian = z.shape[1] * g.square().sum() / len(x)
    return F.cross_entropy(z_adv, y) + KEYWORDS["alpha"] * jacobian + KEYWORDS["beta"] * kl(z_adv, z)


def by_hand(method, model, optimizer, x, y, rng):
    """w <- w - lr dL/dw (w + v, x'),   v = gamma ||w|| g / ||g||,   g = dL/dw (w, x')."""
    x_adv = None if method == "plain" else program.craft(objective_of(method), AutogradView(model), x, y, ramp=1.0,
                                                         rng=rng)
    before = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss_of(method, model, x, x_adv, y, rng), parameters)
    model.load_state_dict(before)  # the running statistics
    with torch.no_grad():
        for w, g in zip(parameters, gradients, strict=True):
            if w.dim() > 1:
                w += GAMMA * w.norm() * g / g.norm()
    loss = loss_of(method, model, x, x_adv, y, rng)
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for w, g, old in zip(parameters, gradients, (before[n] for n, _ in model.named_parameters()), strict=True):
            w.copy_(old)
            w.grad = g
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
@pytest.mark.parametrize("name, method", [("wide_resnet", "adv"), ("wide_resnet", "atlas"), ("small_cnn", "trades"),
                                          ("small_cnn", "plain")])
def test_is_the_formula(name, method, engine):
    assert name in FAMILIES
    model, x, y = family(name)
    other = copy.deepcopy(model)
    step, optimizer = TrainingStep(model, objective_of(method), sgd(model), engine, seed=2, awp=GAMMA), sgd(other)
    for i in range(3):
        assert step(x, y)["loss"].item() == pytest.approx(
            by_hand(method, other, optimizer, x, y, ops.make_rng(2, i)), rel=1e-9)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
def test_weights_come_back_bit_for_bit(engine, amp):
    model, x, y = family("wide_resnet")
    model, x = model.float(), x.float()
    before = [p.clone() for p in model.parameters()]
    step = TrainingStep(model, objective_of("adv"), torch.optim.SGD(model.parameters(), lr=0.0), engine, amp, awp=0.05)
    perturbed = step(x, y)["loss"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    step.perturbs = False
    step.load_state_dict({"seed": 0, "step": 0})
    assert perturbed > step(x, y)["loss"]  # v ascends the loss


def test_a_gradient_that_is_not_finite_changes_nothing():
    model, x, y = family("wide_resnet")
    step = TrainingStep(model, objective_of("atlas"), sgd(model, fused=True), awp=GAMMA)
    step(x, y)
    before = copy.deepcopy(model.state_dict())
    x[0, 0, 0, 0] = float("inf")
    step(x, y)
    assert step.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


def test_it_can_begin_later_under_a_recording():
    steps = []
    for recorder in (None, Recorder()):
        model, x, y = family("wide_resnet")
        step = TrainingStep(model.float(), objective_of("adv"), sgd(model, fused=True), awp=GAMMA)
        if recorder is not None:
            step._graph = Captured(step._recorded, recorder)
        step.perturbs = False
        steps.append(step)
    plain, step = steps
    x = x.float()
    for i in range(2 * WARM_UP + 4):
        if i == WARM_UP + 2:
            assert step.captured
            plain.perturbs = step.perturbs = True
        assert step(x, y)["loss"].item() == plain(x, y)["loss"].item()
    assert step.captured and recorder.recordings == 2


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan"), "a"])
def test_wrong_sizes_are_refused(gamma):
    model, _, _ = family("small_cnn")
    with pytest.raises(UserError, match="awp must be"):
        TrainingStep(model, objective_of("adv"), sgd(model), awp=gamma)
