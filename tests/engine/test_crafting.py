"""How x' is made: the loops against hand-written ones, and that crafting leaves no trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_fast import objectives, ops
from atlas_fast.engine import AutogradView, program

EPS = 0.1


def net(**batch_norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, **batch_norm), nn.ReLU(),
                         nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(100, 5)).double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, 1, 5, 5, dtype=torch.float64, generator=generator), torch.arange(6) % 5


def craft(objective, model, x, y, rng, bn_mode="train", **kwargs):
    return program.craft(objective, AutogradView(model, bn_mode=bn_mode), x, y, ramp=1.0, rng=rng, **kwargs)


def ascend_by_hand(loss, x, eps, step, steps, rng):
    """Equation 2 of the paper with the loss's gradient by plain autograd."""
    x_adv = ops.random_start_reference(x, eps, None, rng)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(x_adv), x_adv)
        x_adv = (x_adv + step * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return x_adv.detach()


@pytest.mark.parametrize(("steps", "step"), [(1, 1.25 * EPS), (4, 2.5 * EPS / 4)])
@pytest.mark.parametrize("method", ["atlas_g", "trades"])
def test_adversaries_are_those_of_a_hand_written_loop(method, steps, step, batch):
    (x, y), model, rng = batch, net(track_running_stats=False), ops.make_rng(2, 5)
    if method == "trades":
        p = model(x).log_softmax(1).detach()
        expected = ascend_by_hand(lambda at: F.kl_div(model(at).log_softmax(1), p, reduction="sum", log_target=True),
                                  x, EPS, step, steps, rng)
    else:
        expected = ascend_by_hand(lambda at: F.cross_entropy(model(at), y, reduction="sum"), x, EPS, step, steps, rng)
    x_adv = craft(objectives.create(method, eps=EPS, beta=1.0, steps=steps), model, x, y, rng)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert not x_adv.requires_grad and (x_adv - x).abs().max() <= EPS + 1e-6 and 0 <= x_adv.min() <= x_adv.max() <= 1


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(model, before, modes):
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("method", ["adv", "trades"])
def test_crafting_leaves_no_trace(method, momentum, bn_mode, training, batch):
    (x, y), model = batch, net(momentum=momentum).train(training)
    before, modes = state_of(model), [m.training for m in model.modules()]
    keywords = {"eps": EPS, "steps": 3, **({"beta": 1.0} if method == "trades" else {})}
    craft(objectives.create(method, **keywords), model, x, y, ops.make_rng(0), bn_mode)
    assert_same_state(model, before, modes)


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_crafting_leaves_no_trace_after_an_exception(bn_mode, batch):
    (x, y), model = batch, net()
    before, modes = state_of(model), [m.training for m in model.modules()]
    handle = model[-1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        craft(objectives.adv(eps=EPS), model, x, y, ops.make_rng(0), bn_mode)
    handle.remove()
    assert_same_state(model, before, modes)


def test_bn_mode_chooses_the_statistics_of_crafting(batch):
    (x, y), model, rng = batch, net(), ops.make_rng(0)
    model[1].running_mean.fill_(3.0)
    objective = objectives.adv(eps=EPS, steps=3)
    batch_statistics, running = (craft(objective, model, x, y, rng, mode) for mode in ("train", "eval"))
    as_eval = craft(objective, model.eval(), x, y, rng)
    assert torch.equal(running, as_eval) and not torch.equal(batch_statistics, running)


def test_running_statistics_follow_x_adv_then_x(batch):
    (x, y), model, other, rng = batch, net(), net(), ops.make_rng(0)
    objective = objectives.atlas(eps=EPS, alpha=0.1, beta=1.0)
    x_adv = craft(objective, other, x, y, rng)
    objective(model, x, y, rng=rng).backward()
    other(x_adv), other(x)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-12, atol=0)
    assert model[1].num_batches_tracked == 2


class ConvolutionBackwards(TorchDispatchMode):
    """The (input, weight, bias) gradients asked of every convolution's backward."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["adv", "trades"])
def test_crafting_computes_no_weight_gradient(method, batch):
    (x, y), model = batch, net()
    keywords = {"eps": EPS, "steps": 3, **({"beta": 1.0} if method == "trades" else {})}
    with ConvolutionBackwards() as seen:
        craft(objectives.create(method, **keywords), model, x, y, ops.make_rng(0))
    assert seen.masks == [(True, False, False)] * 2 * 3


def test_a_step_computes_each_gradient_once_and_none_for_the_images(batch):
    (x, y), model = batch, net()
    with ConvolutionBackwards() as seen:
        prepared = program.prepare(objectives.atlas(eps=EPS, alpha=0.1, beta=1.0), AutogradView(model), x, y)
        assert seen.masks == [(True, False, False)] * 4  # crafting, then v^T J: two convolutions each
        prepared.accumulate()
    last = seen.masks[4:]
    assert sum(weight for _, weight, _ in last) == 6  # two convolutions at x', at x and of the tangent
    # The second convolution's input gradient at x' and x; none of the first convolution's, whose input is an image.
    assert sum(image for image, _, _ in last) == 2


def test_random_numbers_belong_to_samples_not_to_batches(batch):
    (x, y), model, rng = batch, net().eval(), ops.make_rng(11, 3)
    objective = objectives.atlas(eps=EPS, alpha=0.1, beta=1.0, num_projections=2)
    whole = program.prepare(objective, AutogradView(model), x, y, rng=rng)
    parts = [program.prepare(objective, AutogradView(model), x[a:b], y[a:b], rng=rng, sample_offset=a)
             for a, b in ((0, 2), (2, 6))]
    for name, value in whole.terms.items():
        mean = (2 * parts[0].terms[name] + 4 * parts[1].terms[name]) / 6
        torch.testing.assert_close(mean, value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["atlas", "tradesjac"])
def test_underflowing_probabilities_stay_finite(method, dtype):
    """Logits hundreds apart: softmax underflows to 0 at x and at x'."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).to(dtype)
    with torch.no_grad():
        model[1].weight.mul_(2000)
    x, y = torch.rand(8, 1, 4, 4, dtype=dtype), torch.arange(8) % 4
    objective = objectives.create(method, eps=0.3, alpha=1e-6, beta=1.0, steps=2)
    loss = objective(model, x, y, rng=ops.make_rng(0))
    loss.backward()
    assert (model(x).softmax(1) == 0).any()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())
