"""YOPO-m-n against its algorithm 1 with the authors' gradients of the first layer, written by hand in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from comparing import family
from torch import nn

from atlas_fast import YopoStep, models, objectives, ops
from atlas_fast.errors import UserError

EPS, STEP, M, N = 0.1, 0.04, 3, 2


def adv(**changes):
    return objectives.adv(**{"eps": EPS, "step_size": STEP, "steps": N, **changes})


def sgd(model, **changes):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, **changes})


def by_hand(first, rest, x, y, rng, ramp=1.0):
    """{parameter: gradient} and the losses of m passes. first: to the first layer's output; rest: from there."""
    eps, step = ramp * EPS, ramp * STEP
    parameters = [*first.parameters(), *rest.parameters()]
    total, losses = [torch.zeros_like(p) for p in parameters], []
    eta = ops.random_start_reference(x, eps, None, rng) - x
    for _ in range(M):
        out = first(x + eta)
        loss = F.cross_entropy(rest(out), y)
        *grads, p = torch.autograd.grad(loss, [*parameters, out])
        for _ in range(N):
            eta.requires_grad_()
            (g,) = torch.autograd.grad((p * first(x + eta)).sum(), eta)
            eta = ((x + (eta + step * g.sign()).clamp(-eps, eps)).clamp(0, 1) - x).detach()
        own = torch.autograd.grad((p * first(x + eta)).sum(), list(first.parameters()))
        for t, g in zip(total, grads, strict=True):
            t += g
        for t, g in zip(total, own, strict=False):
            t += g
        losses.append(loss.item())
    return dict(zip(parameters, total, strict=True)), losses


def networks():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(256, 5)).double()
    # An in-place ReLU overwrites the first layer's output.
    written = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Flatten(),
                            nn.Linear(144, 5)).double()
    normalised = models.small_cnn(5, 3, 8, channels=(3, 4), hidden=7, normalize=((0.5,) * 3, (0.2,) * 3)).double()
    rest = nn.Sequential(normalised.relu1, normalised.conv2, normalised.relu2, nn.Flatten(), normalised.fc1,
                         normalised.relu3, normalised.fc2)
    weight_norm = nn.utils.parametrizations.weight_norm
    normed = nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.Softplus(), nn.Flatten(), nn.Linear(144, 5)).double()
    return {"plain": (plain, plain[:1], plain[1:]), "weight norm": (normed, normed[:1], normed[1:]),
            "in place": (written, written[:1], nn.Sequential(nn.ReLU(), *written[2:])),
            "normalised": (normalised, nn.Sequential(normalised.normalize, normalised.conv1), rest)}


def images(dtype=torch.float64, count=1):
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(6, 3, 8, 8, dtype=dtype, generator=generator), torch.randint(5, (6,), generator=generator))
            for _ in range(count)]


@pytest.mark.parametrize("name", list(networks()))
def test_is_algorithm_1(name):
    model, first, rest = networks()[name]
    (x, y), = images()
    step = YopoStep(model, adv(), sgd(model, lr=0.0, weight_decay=0.0), M, seed=4)
    for i, ramp in enumerate((0.5, 1.0)):
        step.ramp = ramp
        expected, losses = by_hand(first, rest, x, y, ops.make_rng(4, i), ramp)
        assert step(x, y)["loss"].item() == pytest.approx(sum(losses) / M, rel=1e-9)
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.grad, expected[p], rtol=1e-8, atol=1e-12, msg=name)
    assert step.state_dict() == {"seed": 4, "step": 2} and step.engine == "autograd" and "YOPO" in step.engine_reason


def test_running_statistics_see_the_full_passes_only():
    model, _, _ = networks()["in place"]
    (x, y), = images()
    YopoStep(model, adv(), sgd(model), M)(x, y)
    assert model[2].num_batches_tracked == M


def test_a_first_layer_that_is_frozen():
    model, first, _ = networks()["plain"]
    first.requires_grad_(False)
    (x, y), = images()
    before = copy.deepcopy(first.state_dict())
    step = YopoStep(model, adv(), sgd(model), M)
    assert torch.isfinite(step(x, y)["loss"]) and all(p.grad is None for p in first.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), before.values(), strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_that_is_not_finite_changes_nothing(fused):
    model, _, _ = networks()["in place"]
    (x, y), = images()
    step = YopoStep(model, adv(), sgd(model, fused=fused), M)
    step(x, y)
    before = copy.deepcopy(model.state_dict())
    x[0, 0, 0, 0] = float("nan")
    step(x, y)
    assert step.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


class Beside(nn.Module):
    """The images reach the logits past the first layer as well."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(192, 5)

    def forward(self, x):
        return self.last((self.first(x) + x).flatten(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(192, 5)

    def forward(self, x):
        return self.last(self.first(self.first(x)).flatten(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.GRU(24, 3, batch_first=True), nn.Linear(24, 5)

    def forward(self, x):
        return self.last(self.first(x.transpose(1, 2).flatten(2))[0].flatten(1))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 192))

    def forward(self, x):
        return F.linear(x.flatten(1), self.weight)


class NoWay(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(192, 5)

    def forward(self, x):
        return self.last((x.flatten(1) > 0.5).to(x.dtype))


@pytest.mark.parametrize(("model", "message"), [
    (Beside, "in Beside they go past Conv2d"), (Twice, "Conv2d is called 2 times"), (Recurrent, "GRU returns a tuple"),
    (NoWay, "does not depend on its input differentiably"),
])
def test_networks_that_cannot_work_are_refused(model, message):
    model = model().double()
    (x, y), = images()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        YopoStep(model, adv(), sgd(model), M)(x, y)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


def test_a_single_module_is_its_own_first_layer():
    model = Functional().double()
    (x, y), = images()
    assert torch.isfinite(YopoStep(model, adv(), sgd(model), M)(x, y)["loss"])


class Empty(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x.flatten(1)[:, :5]


@pytest.mark.parametrize(("make", "message"), [
    (lambda m: YopoStep(m, adv(), sgd(m), 0), "passes must be a whole number"),
    (lambda m: YopoStep(m, adv(), sgd(m), engine="sweeps"), "engine='sweeps' cannot run this: YOPO"),
    (lambda m: YopoStep(m, objectives.jac(1.0), sgd(m)), "YOPO trains on the cross-entropy at x' alone"),
    (lambda m: YopoStep(m, adv().replace(tau=1), sgd(m)), "YOPO trains on"),
    (lambda m: YopoStep(m, adv(), sgd(m), awp=0.1), "awp needs"),
])
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make(family("small_cnn")[0])


def test_a_network_whose_layers_are_not_called_is_refused():
    model = Empty().double()
    (x, y), = images()
    with pytest.raises(UserError, match="no module with parameters was called"):
        YopoStep(model, adv(), sgd(model), M)(x, y)


def test_bfloat16_on_a_cpu():
    model, _, _ = networks()["in place"]
    model = model.float()
    (x, y), = images(torch.float32)
    step = YopoStep(model, adv(), sgd(model), M, amp="bf16")
    assert torch.isfinite(step(x, y)["loss"]) and all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_a_graph_and_gives_the_same():
    results = []
    for capture in ("off", "on"):
        model, x, y = family("wide_resnet")
        model, x, y = model.float().cuda(), x.float().cuda(), y.cuda()
        step = YopoStep(model, adv(), sgd(model, fused=True), M, amp="off", capture=capture)
        results.append([step(x, y)["loss"].item() for _ in range(7)])
        assert step.captured == (capture == "on") and (capture == "off" or step.capture_reason is None)
    assert results[0] == pytest.approx(results[1], rel=0.02)  # two runs differ by what a few signs do
