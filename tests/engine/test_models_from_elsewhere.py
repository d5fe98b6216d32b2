"""Networks that were not written for this package: they work, or one sentence says what to change."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atlas_fast import TrainingStep, evaluate, objectives, ops
from atlas_fast.attacks import PGD
from atlas_fast.engine import AutogradView, program
from atlas_fast.errors import UserError

EPS = 8 / 255


def batch(dtype=torch.float32):
    torch.manual_seed(1)
    return torch.rand(4, 3, 8, 8, dtype=dtype), torch.tensor([0, 1, 2, 0])


class Attention(nn.Module):
    """A transformer block over the rows of an image; plain: its formula instead of PyTorch's fused kernel."""

    def __init__(self, plain: bool):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.norm, self.fc, self.plain = nn.Linear(24, 48), nn.LayerNorm(24), nn.Linear(16, 3), plain

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x.transpose(1, 2).flatten(2)))[:, None].chunk(3, -1)
        if self.plain:
            mixed = (q @ k.transpose(-1, -2) / 4).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.fc(mixed[:, 0].mean(1))


def test_a_jacobian_penalty_through_attention():
    """The fused kernels have no second derivative."""
    x, y = batch(torch.float64)
    objective, gradients = objectives.atlas(EPS, alpha=0.5, beta=1.0), []
    for plain in (True, False):
        model = Attention(plain).double()
        objective(model, x, y, rng=ops.make_rng(3)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    step = TrainingStep(model := Attention(False), objective, torch.optim.SGD(model.parameters(), lr=0.1))
    assert step.engine == "autograd" and step(x.float(), y)["jacobian"] > 0


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_frozen_scripted_and_parallel_networks_give_the_plain_ones_gradients():
    x, y = batch()

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def gradient(model, size=4):
        objective = objectives.atlas(EPS, alpha=0.5, beta=1.0)
        prepared = program.prepare(objective, AutogradView(model), x[:size], y[:size], rng=ops.make_rng(3))
        prepared.accumulate()
        return [p.grad for p in model.parameters()]

    expected = gradient(network())
    for wrap in (nn.DataParallel, torch.jit.script):
        torch.testing.assert_close(gradient(wrap(network())), expected)
    frozen = network()
    frozen[0].requires_grad_(False)
    torch.testing.assert_close(gradient(frozen), [None, None, *expected[2:]])
    assert all(g.isfinite().all() for g in gradient(network(), size=1))


class NoSecondDerivative(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(144, 3))


def test_a_layer_without_second_derivative():
    (x, y), model = batch(), NoSecondDerivative()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="second derivative of hardsigmoid.*adv, trades, atlas_g"):
        TrainingStep(model, objectives.atlas(EPS, alpha=0.5, beta=1.0), optimizer)(x, y)
    assert TrainingStep(model, objectives.trades(EPS, beta=1.0), optimizer)(x, y)["loss"] > 0


class Answers(nn.Module):
    """What libraries return instead of logits."""

    def __init__(self, of):
        super().__init__()
        self.fc, self.of = nn.Linear(192, 3), of

    def forward(self, x):
        return self.of(self.fc(x.flatten(1)))


@pytest.mark.parametrize("of", [lambda z: types.SimpleNamespace(logits=z), lambda z: {"logits": z}, lambda z: (z, z)])
def test_other_answers_than_logits(of):
    (x, y), model = batch(), Answers(of)
    step = TrainingStep(model, objectives.adv(EPS), torch.optim.SGD(model.parameters(), lr=0.1), engine="autograd")
    for call in (lambda: objectives.adv(EPS)(model, x, y), lambda: step(x, y), lambda: PGD(EPS)(model.eval(), x, y),
                 lambda: evaluate(model, x, y, eps=EPS)):
        with pytest.raises(UserError, match="must return logits .*wrap it in a module that returns them alone"):
            call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_weights_of_another_dtype_than_the_images(dtype, engine):
    (x, y), model = batch(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)).to(dtype)
    step = TrainingStep(model, objectives.adv(EPS), torch.optim.SGD(model.parameters(), lr=0.1), engine=engine)
    for call in (lambda: objectives.adv(EPS)(model, x, y), lambda: step(x, y), lambda: PGD(EPS)(model.eval(), x, y),
                 lambda: evaluate(model, x, y, eps=EPS)):
        with pytest.raises(UserError, match=f"torch.float32 images .*weights are {dtype}"):
            call()


def test_normalised_images_are_refused():
    (x, y), model = batch(), nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    for call in (objectives.adv(EPS), PGD(EPS)):
        with pytest.raises(UserError, match="must lie in .0, 1., got values from .* belongs into the model"):
            call(model, (x - 0.5) / 0.25, y)
        call(model, x + 1e-7, y)


def test_an_optimizer_that_needs_a_closure_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(UserError, match="LBFGS"):
        TrainingStep(model, objectives.adv(EPS), torch.optim.LBFGS(model.parameters()))
