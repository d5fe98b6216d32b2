"""Friendly adversarial training: the vectorised early stop against algorithm 1, sample by sample, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from comparing import FAMILIES, family, images

from atlas_fast import objectives, ops
from atlas_fast.attacks.early_stop import normal
from atlas_fast.engine import AutogradView, SweepView, TrainingStep, program
from atlas_fast.errors import UserError
from atlas_fast.ops.unit_vectors import normal_reference

EPS, STEP, STEPS, OMEGA, N = 0.1, 0.03, 4, 0.02, 24


def setting(name):
    model = family(name)[0].eval()  # samples do not depend on one another, so that one can be run alone
    x = images(FAMILIES[name][1], count=N)[0]
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 5  # misclassified from the beginning
    return model, x, y


def by_hand(model, x, y, tau, omega, rng):
    """Algorithm 1 of Zhang et al. 2020 for each sample by itself; returns x' and the number of steps of each."""
    start = ops.random_start_reference(x, EPS, None, rng)
    noise = [normal_reference(rng, N, x[0].numel(), ops.stream(ops.RANDOM_START, t + 1), 0).view_as(x)
             for t in range(STEPS)]
    made, taken = [], []
    for i in range(N):
        image, x_adv, left, count = x[i:i + 1], start[i:i + 1], tau, 0
        for t in range(STEPS):
            x_adv = x_adv.detach().requires_grad_()
            logits = model(x_adv)
            if logits.argmax(1) != y[i]:
                if left == 0:
                    break
                left -= 1
            (g,) = torch.autograd.grad(F.cross_entropy(logits, y[i:i + 1]), x_adv)
            x_adv = x_adv + omega * noise[t][i:i + 1] + STEP * g.sign()
            x_adv, count = x_adv.clamp(image - EPS, image + EPS).clamp(0, 1), count + 1
        made.append(x_adv.detach())
        taken.append(count)
    return torch.cat(made), taken


@pytest.mark.parametrize("view", [AutogradView, SweepView])
@pytest.mark.parametrize("omega", [0.0, OMEGA])
@pytest.mark.parametrize("name, tau", [("small_cnn", 0), ("small_cnn", 1), ("wide_resnet", 2)])
def test_is_algorithm_1_in_the_batchs_order(name, tau, omega, view):
    model, x, y = setting(name)
    rng = ops.make_rng(3, 2)
    objective = objectives.fat(EPS, STEPS, STEP, tau=tau, omega=omega)
    x_adv = program.craft(objective, view(model), x, y, ramp=1.0, rng=rng)
    expected, taken = by_hand(model, x, y, tau, omega, rng)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-6 if omega else 1e-15)
    assert min(taken) == tau and max(taken) == STEPS and len(set(taken)) > 2, taken


def test_the_ramp_scales_the_noise_and_one_step_may_be_none():
    model, x, y = setting("small_cnn")
    rng, ramp = ops.make_rng(5), torch.tensor(0.5, dtype=torch.float64)
    half = objectives.fat(EPS / 2, STEPS, STEP / 2, tau=1, omega=OMEGA / 2)
    whole = objectives.fat(EPS, STEPS, STEP, tau=1, omega=OMEGA)
    made = [program.craft(o, AutogradView(model), x, y, ramp=r, rng=rng) for o, r in ((half, 1.0), (whole, ramp))]
    torch.testing.assert_close(*made, rtol=0, atol=1e-12)
    one = objectives.fat(EPS, 1, STEP, tau=0, omega=0.0)
    start, x_adv = ops.random_start(x, EPS, rng), program.craft(one, AutogradView(model), x, y, ramp=1.0, rng=rng)
    still = (x_adv == start).flatten(1).all(1)
    assert torch.equal(still, model(start).argmax(1) != y) and 0 < still.sum() < N


def test_any_adversary_may_stop_early():
    model, x, y = setting("small_cnn")
    rng = ops.make_rng(5)
    early, full = objectives.trades(EPS, 1.0, STEPS, STEP).replace(tau=0), objectives.trades(EPS, 1.0, STEPS, STEP)
    made = [program.craft(o, AutogradView(model), x, y, ramp=1.0, rng=rng) for o in (early, full)]
    moved = (made[0] != made[1]).flatten(1).any(1)
    assert torch.equal(made[0][::5], ops.random_start(x, EPS, rng)[::5]) and 0 < moved.sum() < N


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
def test_the_step_trains_on_it(engine):
    model, x, y = setting("small_cnn")
    other, objective = copy.deepcopy(model), objectives.fat(EPS, STEPS, STEP, tau=1, omega=0.0)
    step = TrainingStep(model, objective, torch.optim.SGD(model.parameters(), lr=0.1), engine, seed=8)
    terms = step(x, y)
    x_adv, _ = by_hand(other, x, y, 1, 0.0, ops.make_rng(8))
    loss = F.cross_entropy(other(x_adv), y)
    loss.backward()
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach() - 0.1 * q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.float64, 1e-5)])
def test_noise_is_the_normal_of_its_words(dtype, atol):
    rng, like = ops.make_rng(2, 9), torch.empty(50, 3, 7, 5, dtype=dtype).to(memory_format=torch.channels_last)
    noise = normal(rng, like, 7, sample_offset=4)
    expected = normal_reference(rng, 50, 105, 7, 4).view(50, 3, 7, 5)
    torch.testing.assert_close(noise.double(), expected, rtol=0, atol=atol)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05 and noise.isfinite().all()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: objectives.fat(EPS, tau=-1), "tau must be a whole number of at least 0"),
    (lambda: objectives.fat(EPS, tau=0.5), "tau must be a whole number"),
    (lambda: objectives.fat(EPS, omega=-0.1), "omega must be at least 0"),
    (lambda: objectives.fat(EPS, steps=0), "at least 1"),
    (lambda: objectives.plain().replace(tau=1), "no adversary that could stop early"),
    (lambda: objectives.adv(EPS).replace(omega=0.1), "give tau as well"),
])
def test_wrong_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nothing_waits_for_the_host():
    model, x, y = setting("wide_resnet")
    model, x, y = model.float().cuda().train(), x.float().cuda(), y.cuda()
    objective = objectives.fat(EPS, STEPS, STEP, tau=1, omega=OMEGA)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    step = TrainingStep(model, objective, optimizer, capture="on", awp=0.01, ema=0.9)
    step(x, y)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(4):
        assert torch.isfinite(step(x, y)["loss"])
    assert step.captured and step.capture_reason is None
