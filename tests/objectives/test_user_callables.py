"""A user's own local penalty and global metric."""

import pytest
import torch
from torch import nn

from atlas_fast import objectives, ops
from atlas_fast.engine import AutogradView, program
from atlas_fast.errors import UserError


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, torch.rand(4, 2, 2, 2).double(), torch.tensor([0, 1, 2, 0]), ops.make_rng(4)


def gradients(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def crafted(objective, model, x, y, rng):
    return program.craft(objective, AutogradView(model), x, y, ramp=1.0, rng=rng)


def squared_distance(base, other):
    return (base.softmax(1) - other.softmax(1)).square().sum(1).mean()


@pytest.mark.parametrize("method", ["atlas_g", "trades"])
def test_metric_replaces_the_kl(method, setting):
    model, x, y, rng = setting
    objective = objectives.create(method, eps=0.2, beta=2.0).replace(metric=lambda a, b: squared_distance(a, 2 * b))
    x_adv = crafted(objective, model, x, y, rng)
    base, other, at = (x_adv, x, x_adv) if method == "atlas_g" else (x, x_adv, x)
    expected = nn.functional.cross_entropy(model(at), y) + 2.0 * squared_distance(model(base), 2 * model(other))
    loss = objective(model, x, y, rng=rng)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected), rtol=1e-9, atol=1e-12)
    assert set(objective.terms) == {"loss", "ce", "metric"}


def margin_gradient(logits, x, y):
    (g,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), x, create_graph=True)
    return g.square().sum() / len(x)


def test_local_replaces_the_jacobian_penalty(setting):
    model, x, y, rng = setting
    objective = objectives.atlas(eps=0.2, alpha=0.5, beta=1.0).replace(local=margin_gradient)
    x_adv = crafted(objective, model, x, y, rng).requires_grad_()
    logits = model(x_adv)
    expected = nn.functional.cross_entropy(logits, y) + 0.5 * margin_gradient(logits, x_adv, y) + ops.ce_kl(
        logits, model(x), y, 1.0) - nn.functional.cross_entropy(logits, y)
    loss = objective(model, x, y, rng=rng)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected), rtol=1e-9, atol=1e-12)
    assert set(objective.terms) == {"loss", "ce", "kl", "local"}


def test_callables_without_a_gradient_are_refused(setting):
    model, x, y, _ = setting
    objective = objectives.atlas(eps=0.2, alpha=0.5, beta=1.0)
    with pytest.raises(UserError, match="metric.* must return a 0-d tensor"):
        objective.replace(metric=lambda a, b: torch.zeros(()))(model, x, y)
    with pytest.raises(UserError, match="local.* must return a 0-d tensor"):
        objective.replace(local=lambda logits, x, y: logits.sum(1))(model, x, y)
    with pytest.raises(UserError, match="no KL term"):
        objectives.jac(alpha=1.0).replace(metric=squared_distance)
    with pytest.raises(UserError, match="no local penalty"):
        objectives.adv(eps=0.1).replace(local=margin_gradient)
