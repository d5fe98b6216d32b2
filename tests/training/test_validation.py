"""The numbers of the validation against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atlas_fast import objectives, ops
from atlas_fast.attacks import FGSM, PGD
from atlas_fast.data import to_float
from atlas_fast.training import validation
from atlas_fast.training.validation import measure

CPU, EPS, N = torch.device("cpu"), 0.1, 40
ATTACK = PGD(EPS, 0.02, 10)


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
                          nn.Linear(6 * 36, 4))
    x, y = torch.randint(0, 256, (N, 1, 6, 6), dtype=torch.uint8), torch.randint(0, 4, (N,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(30):  # until some images are right and some are not
        optimizer.zero_grad()
        F.cross_entropy(model(to_float(x)), y).backward()
        optimizer.step()
    return model, x, y


def accuracy(model, x, y):
    return (model.eval()(x).argmax(1) == y).float().mean().item()


def one_step(model, x, start, loss, eps, step_size):
    start = start.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(model(start)), start)
    return (x + (start.detach() + step_size * g.sign() - x).clamp(-eps, eps)).clamp(0, 1)


def own_adversary(model, x, y, kl):
    """x' of one step of 0.13 from the validation's random start."""
    start = ops.random_start(x, EPS, ops.make_rng(validation.SEED))
    clean = model(x).softmax(1).detach()
    ce = lambda z: F.cross_entropy(z, y, reduction="sum")  # noqa: E731
    ascended = (lambda z: F.kl_div(z.log_softmax(1), clean, reduction="sum")) if kl else ce
    return one_step(model, x, start, ascended, EPS, 0.13)


@pytest.mark.parametrize("method", ["adv", "trades", "atlas_l"])
def test_against_the_definitions(case, method):
    model, images, y = case
    weight = {"trades": {"beta": 2.0}, "atlas_l": {"alpha": 1e-3}}.get(method, {})
    objective = objectives.create(method, eps=EPS, step_size=0.13, steps=1, **weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    found = measure(model, images, y, ATTACK, CPU, objective=objective)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    model.eval()
    x = to_float(images)
    rng = ops.make_rng(validation.SEED)
    x_pgd, x_adv = ATTACK(model, x, y, rng=rng), own_adversary(model, x, y, method == "trades")
    right = model(x).argmax(1) == y
    assert found["clean_accuracy"] == pytest.approx(accuracy(model, x, y))
    assert found["robust_accuracy"] == pytest.approx((right & (model(x_pgd).argmax(1) == y)).float().mean().item())
    assert found["adversary_accuracy"] == pytest.approx(accuracy(model, x_adv, y))
    fgsm = one_step(model, x, x, lambda z: F.cross_entropy(z, y, reduction="sum"), EPS, EPS)
    assert found["fgsm_accuracy"] == pytest.approx(accuracy(model, fgsm, y))
    assert fgsm.allclose(FGSM(EPS, EPS, random_start=False)(model, x, y), atol=1e-6)

    v = ops.unit_vectors(rng, N, 4)[0].double()
    jacobian = torch.autograd.functional.jacobian(lambda z: model.double()(z).sum(0), x_adv.double())  # [C,N,1,6,6]
    norms = 4 * torch.einsum("nc,cnhwk->nhwk", v, jacobian).square().sum((1, 2, 3))
    assert found["jacobian_norm"] == pytest.approx(norms.mean().item(), rel=1e-4)


def test_batches_do_not_matter(case, monkeypatch):
    whole = measure(*case, ATTACK, CPU)
    monkeypatch.setattr(validation, "BATCH", 7)
    assert measure(*case, ATTACK, CPU) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("objective", [None, objectives.plain(), objectives.jac(alpha=0.1),
                                       objectives.trades(eps=EPS, beta=0)])
def test_without_an_adversary_it_is_the_papers_one_step(case, objective):
    expected = measure(*case, ATTACK, CPU, objective=objectives.adv(eps=EPS))
    assert measure(*case, ATTACK, CPU, objective=objective) == expected


def test_what_it_costs(case):
    passes = []
    case[0].register_forward_hook(lambda *arguments: passes.append(1))
    measure(*case, ATTACK, CPU, objective=objectives.adv(eps=EPS))
    assert len(passes) == 10 + 5
    passes.clear()
    found = measure(*case, ATTACK, CPU, objective=objectives.adv(eps=EPS, steps=10, step_size=0.02))
    assert len(passes) == 10 + 4  # x' is PGD's
    assert found == pytest.approx(measure(*case, PGD(EPS, 0.02 + 1e-9, 10), CPU, objective=objectives.adv(
        eps=EPS, steps=10, step_size=0.02)), rel=1e-4)
