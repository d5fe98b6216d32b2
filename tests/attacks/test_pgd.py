"""FGSM and PGD: against foolbox, against the definition, and their conventions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import FGSM, PGD, Network
from atlas_fast.attacks.steps import ascent_step, random_start
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


def test_pgd_in_l2_is_foolboxs(model, batch):
    foolbox = pytest.importorskip("foolbox", reason="the reference implementation for this test")
    x, _ = batch
    y, eps = model(x).argmax(1), 0.12
    ours = PGD(eps, step_size=0.03, steps=20, random_start=False, norm="L2")(model, x, y)
    attack = foolbox.attacks.L2PGD(abs_stepsize=0.03, steps=20, random_start=False)
    _, theirs, success = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert torch.equal(model(ours).argmax(1) != y, success) and 0 < success.sum() < len(y)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_verdicts_are_foolboxs(norm, model, batch):
    foolbox = pytest.importorskip("foolbox", reason="the reference implementation for this test")
    x, _ = batch
    y, eps = model(x).argmax(1), {"Linf": 0.012, "L2": 0.12}[norm]
    attack = getattr(foolbox.attacks, f"{norm}PGD")(abs_stepsize=eps / 4, steps=10, random_start=False)
    _, _, success = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)
    x_adv = PGD(eps, eps / 4, 10, random_start=False, norm=norm)(model, x, y)
    assert torch.equal(model(x_adv).argmax(1) != y, success) and 0 < success.sum() < len(y)


@pytest.mark.parametrize("attack", [PGD(0.4, steps=7, norm="L2"), FGSM(0.4, norm="L2"),
                                    PGD(0.4, 0.3, 5, restarts=3, norm="L2", any_step=True),
                                    PGD(3.0, steps=4, random_start=False, norm="L2")])
def test_l2_adversaries_lie_in_the_ball_and_in_the_range_and_raise_the_loss(attack, model, batch):
    x, y = batch
    x_adv = attack(model, x, y)
    assert (x_adv - x).flatten(1).norm(dim=1).max() <= attack.eps + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    assert F.cross_entropy(model(x_adv), y) > F.cross_entropy(model(x), y) and x_adv.dtype == x.dtype


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 6, 6)])
def test_l2_starts_are_uniform_in_the_ball(shape):
    """(r / eps)^d is uniform in [0, 1], and every axis has mean 0 and variance eps^2 / (d + 2)."""
    x, eps, rng = torch.full((20000, *shape), 0.5), 0.3, ops.make_rng(4)
    start = random_start(x, eps, "L2", rng, 2, sample_offset=5)
    delta, d = (start - x).flatten(1).double(), x[0].numel()
    u = (delta.norm(dim=1) / eps).pow(d).sort().values
    assert (u - torch.linspace(0, 1, len(u), dtype=torch.float64)).abs().max() < 1.63 / len(u) ** 0.5  # KS, 1%
    assert delta.mean(0).abs().max() < 5 * eps / (len(u) * (d + 2)) ** 0.5
    torch.testing.assert_close(delta.var(0), torch.full((d,), eps**2 / (d + 2)).double(), rtol=0.06, atol=0)
    assert torch.equal(random_start(x[7:90], eps, "L2", rng, 2, sample_offset=12), start[7:90])
    assert not torch.equal(random_start(x, eps, "L2", rng, 3, sample_offset=5), start)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_l2_steps_of_gradients_of_any_size(scale):
    """A step of length 0.1 along the gradient; one without a direction stays."""
    x, g = torch.full((4, 1, 2, 3), 0.5), torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    g[1], g[2], g[3, 0, 0, 0] = 0, torch.nan, torch.inf
    moved = ascent_step(x, x, g * scale, 1.0, 0.1, "L2") - x
    torch.testing.assert_close(moved[0], 0.1 * g[0] / g[0].norm())
    assert (moved[1:] == 0).all()


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


def test_restarts_attack_what_is_left(model, batch):
    """Restart after restart on the whole batch, as one would write it, gives the same adversaries."""
    (x, _), rng = batch, ops.make_rng(0)
    y = model(x).argmax(1)
    expected, network, rows = None, Network(model), []
    for restart in range(4):
        z = ops.random_start(x, 0.004, rng, ops.stream(ops.RANDOM_START, restart))
        for _ in range(2):
            (g,) = torch.autograd.grad(F.cross_entropy(model(z.requires_grad_()), y, reduction="sum"), z)
            z = ops.pgd_step(x, z.detach(), g, 0.004, 0.005)
        wrong = None if expected is None else model(expected).argmax(1) != y
        expected = z if expected is None else torch.where(wrong.view(-1, 1, 1, 1), expected, z)
        rows.append(len(y) if wrong is None else int((~wrong).sum()))
    counted = []
    passes = network.passes

    class Counted:
        exact, logits = True, passes.logits

        def forward(self, images):
            counted.append(len(images))
            return passes.forward(images)

    x_adv = PGD(0.004, steps=2, restarts=4)(Network(model, Counted()), x, y, rng=rng)
    assert ((x_adv - expected).abs() > 1e-6).float().mean() < 1e-3
    assert counted == [n for n in rows for _ in range(2)] and rows[0] > rows[1] > 0


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
    (lambda: PGD(EPS, norm="L1"), "norm must be one of Linf, L2"), (lambda: PGD(EPS, max_batch=0), "max_batch"),
])
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_wrong_inputs_are_refused(model, batch):
    x, y = batch
    cases = [(model, (x * 255).byte(), y, "float images"), (model, x, y[:3], "shape \\[32\\]"),
             (model, x, y + 10, "labels must lie in 0..9"), (model[:3], x, y, "must return logits"),
             (lambda images: model(images).detach(), x, y, "differentiably"),
             (lambda images: model(images.detach()), x, y, "differentiably")]
    for net, images, labels, message in cases:
        with pytest.raises(UserError, match=message):
            PGD(EPS)(net, images, labels)
