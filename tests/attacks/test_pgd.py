"""FGSM and PGD: against foolbox, against the definition, and their conventions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import FGSM, PGD
from atlas_fast.errors import UserError

EPS = 0.1


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                         nn.Linear(288, 10)).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(32, 3, 6, 6, generator=generator)
    x[0], x[1] = 0.0, 1.0  # on the range's border
    return x, torch.randint(10, (32,), generator=generator)


def accuracy(model, x, y):
    return (model(x).argmax(1) == y).float().mean().item()


def test_pgd_is_foolboxs(model, batch):
    foolbox = pytest.importorskip("foolbox", reason="the reference implementation for this test")
    x, y = batch
    ours = PGD(eps=EPS, step_size=0.013, steps=20, random_start=False)(model, x, y)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.013, steps=20, random_start=False)
    _, theirs, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=EPS)
    # Rounding may turn the sign of a gradient that is nearly 0; such pixels may part.
    assert ((ours - theirs).abs() > 1e-6).float().mean() < 1e-3


@pytest.mark.parametrize("attack", [FGSM(EPS), PGD(EPS, steps=1), PGD(EPS, steps=7), PGD(EPS, 0.5, 3, restarts=3),
                                    PGD(EPS, 0.02, 10, random_start=False)])
def test_adversaries_lie_in_the_ball_and_in_the_range_and_raise_the_loss(attack, model, batch):
    x, y = batch
    before = x.clone()
    x_adv = attack(model, x, y)
    assert (x_adv - x).abs().max() <= EPS + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    assert F.cross_entropy(model(x_adv), y) > F.cross_entropy(model(x), y)
    assert torch.equal(x, before) and not x_adv.requires_grad and x_adv.dtype == x.dtype
    assert all(p.grad is None for p in model.parameters())


def test_fgsm_is_the_random_start_and_one_projected_step(model, batch):
    (x, y), rng = batch, ops.make_rng(3, 1)
    x_adv = FGSM(EPS)(model, x, y, rng=rng)
    start = ops.random_start(x, EPS, rng).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(start), y, reduction="sum"), start)
    torch.testing.assert_close(x_adv, ops.pgd_step(x, start.detach(), g, EPS, 1.25 * EPS), rtol=0, atol=1e-6)
    assert torch.equal(x_adv, PGD(EPS, 1.25 * EPS, steps=1)(model, x, y, rng=rng))


def test_goodfellows_fgsm(model, batch):
    x, y = batch
    x = x.requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    expected = (x.detach() + EPS * g.sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM(EPS, EPS, random_start=False)(model, x, y), expected, rtol=0, atol=1e-6)


def test_restarts_keep_what_any_of_them_found(model, batch):
    (x, _), rng, eps = batch, ops.make_rng(0), 0.004
    y = model(x).argmax(1)
    restarts = [PGD(eps, steps=2, restarts=r)(model, x, y, rng=rng) for r in (1, 2, 5)]
    wrong = [model(x_adv).argmax(1) != y for x_adv in restarts]
    assert not (wrong[0] & ~wrong[1]).any() and not (wrong[1] & ~wrong[2]).any()
    assert torch.equal(restarts[1][wrong[0]], restarts[0][wrong[0]])  # the first success stays
    assert not torch.equal(restarts[1][~wrong[0]], restarts[0][~wrong[0]])  # the others start anew
    assert 0 < wrong[0].sum() < len(y)


def test_random_numbers_belong_to_samples_not_to_batches(model, batch):
    (x, y), rng, attack = batch, ops.make_rng(1), PGD(EPS, steps=3, restarts=2)
    whole = attack(model, x, y, rng=rng)
    parts = torch.cat([attack(model, x[a:b], y[a:b], rng=rng, sample_offset=a) for a, b in ((0, 5), (5, 32))])
    assert ((whole - parts).abs() > 1e-6).float().mean() < 1e-3
    assert not torch.equal(attack(model, x, y), attack(model, x, y))  # without rng: torch's generator
    torch.manual_seed(3)
    once = attack(model, x, y)
    torch.manual_seed(3)
    assert torch.equal(attack(model, x, y), once)


def test_running_statistics_and_modes_stay(batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 10)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    PGD(EPS, steps=2, restarts=2)(model, *batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(m.training for m in model.modules())


def test_works_without_gradient_mode_and_on_any_callable(model, batch):
    x, y = batch
    with torch.no_grad():
        x_adv = PGD(EPS, steps=3)(lambda images: model(images) * 2, x, y)
    assert accuracy(model, x_adv, y) <= accuracy(model, x, y)


def test_a_confident_model_in_a_large_batch_still_gives_a_sign():
    """Here the wrong class has probability 5e-32."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[40.0] * 4, [-40.0] * 4]) * 0.25)
    x, y = torch.full((1024, 1, 2, 2), 0.9), torch.zeros(1024, dtype=torch.int64)
    x_adv = PGD(0.01, 0.01, steps=1, random_start=False)(model, x, y)
    torch.testing.assert_close(x_adv, x - 0.01)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: PGD(0.0), "eps must be greater than 0"), (lambda: PGD(float("nan")), "eps must be a finite number"),
    (lambda: PGD(EPS, -1.0), "step_size"), (lambda: PGD(EPS, steps=0), "steps must be a whole number"),
    (lambda: PGD(EPS, restarts=0), "restarts"), (lambda: PGD(EPS, restarts=2, random_start=False), "random_start=True"),
])
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_wrong_inputs_are_refused(model, batch):
    x, y = batch
    cases = [(model, (x * 255).byte(), y, "float images"), (model, x, y[:3], "shape \\[32\\]"),
             (model, x, y + 10, "labels must lie in 0..9"), (model[:3], x, y, "must return logits"),
             (lambda images: model(images).detach(), x, y, "differentiably")]
    for net, images, labels, message in cases:
        with pytest.raises(UserError, match=message):
            PGD(EPS)(net, images, labels)
