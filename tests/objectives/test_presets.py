"""Every preset against the paper's formula with the exact Jacobian, at fixed x' and fixed directions, in float64."""

import pytest
import torch
from torch import nn

from atlas_fast import objectives, ops
from atlas_fast.engine import AutogradView, program
from atlas_fast.errors import UserError

N, C = 5, 4
EPS, ALPHA, BETA = 0.1, 0.03, 0.7
KEYWORDS = {"eps": EPS, "alpha": ALPHA, "beta": BETA, "steps": 1, "num_projections": 1}
METHODS = list(objectives.PAPER)


def smooth_net(batch_norm=False):
    torch.manual_seed(1)
    norm = [nn.BatchNorm2d(3, track_running_stats=False)] if batch_norm else []  # jacrev allows no in-place update
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), *norm, nn.Softplus(), nn.Flatten(), nn.Linear(48, C)).double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(N, 2, 4, 4, dtype=torch.float64, generator=generator), torch.tensor([0, 1, 2, 3, 1])


def make(method, **changes):
    keywords = {**KEYWORDS, **changes}
    return objectives.create(method, **{k: v for k, v in keywords.items() if k in objectives.parameters(method)})


def definition(method, f, x, x_adv, y, directions, alpha=ALPHA, beta=BETA):
    """The losses of the paper's equations 12-14, 20, 21 and D.1 as they are written there (mean over the batch)."""

    def ce(at):
        return -f(at).log_softmax(1)[torch.arange(N), y].mean()

    def kl(p, q):
        p, q = f(p).softmax(1), f(q).softmax(1)
        return (p * (p.log() - q.log())).sum(1).mean()

    def jacobian(at):
        J = torch.func.jacrev(f)(at)  # [N, C, N, ...]: with train-mode BatchNorm a sample depends on the others
        vJ = [torch.einsum("nc,nc...->...", v, J) for v in directions]
        return sum(C * (g**2).sum() / N for g in vJ) / len(directions)

    return {
        "plain": lambda: ce(x),
        "jac": lambda: ce(x) + alpha * jacobian(x),
        "adv": lambda: ce(x_adv),
        "trades": lambda: ce(x) + beta * kl(x, x_adv),
        "atlas": lambda: ce(x_adv) + alpha * jacobian(x_adv) + beta * kl(x_adv, x),
        "atlas_l": lambda: ce(x_adv) + alpha * jacobian(x_adv),
        "atlas_g": lambda: ce(x_adv) + beta * kl(x_adv, x),
        "tradesjac": lambda: ce(x) + alpha * jacobian(x) + beta * kl(x, x_adv),
    }[method]()


def adversary(objective, model, x, y, rng, ramp=1.0):
    """The x' of a call with this rng."""
    if objective.adversary is None:
        return x
    return program.craft(objective, AutogradView(model), x, y, ramp=ramp, rng=rng)


def gradients(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_value_and_gradient_are_the_papers(method, batch_norm, steps, batch):
    (x, y), model, rng = batch, smooth_net(batch_norm), ops.make_rng(3, 2)
    objective = make(method, steps=steps, num_projections=2)
    x_adv = adversary(objective, model, x, y, rng)
    directions = ops.unit_vectors(rng, N, C, 2).double()
    expected = definition(method, model, x, x_adv, y, directions)
    loss = objective(model, x, y, rng=rng)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert relative(gradients(model, loss), gradients(model, expected)) < 1e-9


def test_per_sample_jacobian_is_exact_without_batch_norm(batch):
    (x, y), model, rng = batch, smooth_net(), ops.make_rng(5)
    objective = objectives.jac(alpha=1.0)
    objective(model, x, y, rng=rng)
    (v,) = ops.unit_vectors(rng, N, C).double()
    per_sample = torch.stack([torch.func.jacrev(lambda image: model(image[None])[0])(image) for image in x]).flatten(2)
    expected = sum(C * (v[i] @ per_sample[i]).square().sum() for i in range(N)) / N
    assert objective.terms["jacobian"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_estimate_converges_to_the_squared_frobenius_norm(batch):
    (x, y), model = batch, smooth_net()
    objective = objectives.jac(alpha=1.0, num_projections=1000)
    objective(model, x, y, rng=ops.make_rng(7))
    frobenius = sum(torch.func.jacrev(lambda image: model(image[None])[0])(image).square().sum() for image in x) / N
    # 5,000 directions; one has a relative standard deviation of at most sqrt(2 (C-1) / (C+2)) = 1: 4 sigma are 0.057.
    assert objective.terms["jacobian"].item() == pytest.approx(frobenius.item(), rel=0.057)


@pytest.mark.parametrize("method", METHODS)
def test_terms_are_those_of_the_row_and_add_up(method, batch):
    (x, y), model, objective = batch, smooth_net(), make(method)
    loss = objective(model, x, y)
    terms = {name: value.item() for name, value in objective.terms.items()}
    assert set(terms) == {"loss", "ce"} | ({"jacobian"} if objective.jacobian_at else set()) | (
        {"kl"} if objective.kl else set())
    assert not any(value.requires_grad for value in objective.terms.values())
    total = terms["ce"] + ALPHA * terms.get("jacobian", 0) + BETA * terms.get("kl", 0)
    assert loss.item() == pytest.approx(total, rel=1e-12) and terms["loss"] == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_ramp_multiplies_eps_step_alpha_and_beta(method, as_tensor, batch):
    (x, y), model, rng = batch, smooth_net(), ops.make_rng(9)
    ramp, objective = 0.25, make(method)
    smaller = make(method, eps=EPS * ramp, alpha=ALPHA * ramp, beta=BETA * ramp) if objective.ramps else objective
    expected = gradients(model, smaller(model, x, y, rng=rng))
    loss = objective(model, x, y, torch.tensor(ramp, dtype=torch.float64) if as_tensor else ramp, rng=rng)
    assert relative(gradients(model, loss), expected) < 1e-9


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("method", ["adv", "trades", "atlas", "atlas_l", "atlas_g", "tradesjac"])
def test_ramp_zero_is_cross_entropy(method, steps, batch):
    (x, y), model = batch, smooth_net(batch_norm=True)
    for ramp in (0.0, torch.zeros((), dtype=torch.float64)):
        loss = make(method, steps=steps)(model, x, y, ramp)
        grad = gradients(model, loss)
        assert torch.isfinite(loss) and torch.isfinite(grad).all()
        expected = gradients(model, nn.functional.cross_entropy(model(x), y))
        assert relative(grad, expected) < 1e-9


@pytest.mark.parametrize("method", ["jac", "plain"])
def test_methods_without_an_adversary_do_not_ramp(method):
    assert not make(method).ramps
    assert not {"eps", "steps", "step_size"} & set(objectives.parameters(method))


def test_gradient_is_scaled_by_what_the_loss_is_multiplied_with(batch):
    (x, y), model, rng = batch, smooth_net(), ops.make_rng(1)
    objective = make("atlas")
    once = gradients(model, objective(model, x, y, rng=rng))
    assert relative(gradients(model, 3 * objective(model, x, y, rng=rng)), 3 * once) < 1e-12


def test_loss_without_gradient_mode(batch):
    (x, y), model, rng = batch, smooth_net(), ops.make_rng(1)
    objective = make("atlas")
    expected = objective(model, x, y, rng=rng)
    with torch.no_grad():
        loss = objective(model, x, y, rng=rng)
    assert not loss.requires_grad and loss.item() == expected.item()
    with torch.inference_mode(), pytest.raises(UserError, match="no_grad"):
        objective(model, x.clone(), y)


def test_weights_of_zero_leave_their_terms_out(batch):
    (x, y), model, rng = batch, smooth_net(), ops.make_rng(2)
    both, adv = make("atlas", alpha=0.0, beta=0.0), make("adv")
    assert both.points == adv.points == ("adv",)
    assert torch.equal(gradients(model, both(model, x, y, rng=rng)), gradients(model, adv(model, x, y, rng=rng)))
    assert make("trades", beta=0.0).crafting() is None


def test_label_smoothing_only_changes_the_cross_entropy(batch):
    (x, y), model, rng = batch, smooth_net(), ops.make_rng(2)
    plain, smoothed = make("atlas"), make("atlas", label_smoothing=0.1)
    plain(model, x, y, rng=rng), smoothed(model, x, y, rng=rng)
    x_adv = adversary(plain, model, x, y, rng)
    expected = nn.functional.cross_entropy(model(x_adv), y, label_smoothing=0.1)
    assert smoothed.terms["ce"].item() == pytest.approx(expected.item(), rel=1e-9)
    for name in ("kl", "jacobian"):
        assert smoothed.terms[name].item() == plain.terms[name].item()


def test_step_sizes():
    assert make("adv").crafting().step_size == pytest.approx(1.25 * EPS)
    assert make("adv", steps=10).crafting().step_size == pytest.approx(2.5 * EPS / 10)
    assert make("adv", steps=10, step_size=0.007).crafting(0.5).step_size == pytest.approx(0.0035)
    assert make("adv").replace(steps=5).crafting().step_size == pytest.approx(EPS / 2)


WRONG = [
    ("atlas", {"steps": 0}, "at least 1"), ("adv", {"steps": -1}, "at least 1"),
    ("trades", {"steps": 1.5}, "whole number"), ("atlas", {"eps": 0.0}, "eps must be greater than 0"),
    ("atlas", {"eps": float("nan")}, "eps must be a finite"), ("atlas", {"eps": float("inf")}, "eps"),
    ("atlas", {"alpha": -1.0}, "alpha"), ("atlas", {"beta": float("nan")}, "beta"),
    ("jac", {"alpha": float("inf")}, "alpha"), ("adv", {"step_size": 0.0}, "step_size"),
    ("jac", {"num_projections": 0}, "num_projections"), ("plain", {"label_smoothing": 1.5}, "label_smoothing"),
]


@pytest.mark.parametrize(("method", "changes", "message"), WRONG)
def test_wrong_values_are_refused(method, changes, message):
    with pytest.raises(UserError, match=message):
        make(method, **changes)


def test_wrong_names_are_refused():
    with pytest.raises(UserError, match="unknown method 'madry'; choose one of plain, jac"):
        objectives.create("madry")
    with pytest.raises(UserError, match="jac takes alpha, num_projections, label_smoothing"):
        objectives.create("jac", alpha=1.0, eps=0.1)
    with pytest.raises(UserError, match="adversary but none is made"):
        objectives.Objective("mine", ce_at="adv")


BAD_INPUTS = [
    (lambda x, y: ((x * 255).byte(), y), "float images"), (lambda x, y: (x, y[:-1]), "shape \\[5\\]"),
    (lambda x, y: (x, y.float()), "int64"), (lambda x, y: (x, y + 1), "0..3"), (lambda x, y: (x[:0], y[:0]), "N >= 1"),
    (lambda x, y: (x.numpy(), y), "tensors"),
]


@pytest.mark.parametrize(("change", "message"), BAD_INPUTS)
def test_bad_batches_are_refused(change, message, batch):
    with pytest.raises(UserError, match=message):
        make("atlas")(smooth_net(), *change(*batch))


def test_a_model_that_returns_no_logits_is_refused(batch):
    with pytest.raises(UserError, match="must return logits \\[5, classes\\]"):
        make("atlas")(nn.Sequential(nn.Conv2d(2, 3, 3)).double(), *batch)
