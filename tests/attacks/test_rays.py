"""RayS against a plain implementation of the published algorithm, one sample at a time."""

import copy
import math

import pytest
import torch
from torch import nn

from atlas_fast.attacks import RayS, rays
from atlas_fast.errors import UserError


def plain_rays(net, image, label, limit, order):
    """(x_final, distance, queries) by Chen & Gu's program, written out with loops. image: [C, H, W] float64."""
    x, dimension, queries = image.flatten(), image.numel(), 0
    unit = 1 / math.sqrt(dimension)

    def point(signs, distance):
        return (x + distance * unit * torch.tensor(signs, dtype=x.dtype)).clamp(0, 1)

    def fools(signs, distance):
        nonlocal queries
        queries += 1
        return net(point(signs, distance).view(1, *image.shape)).argmax().item() != label

    signs, best, level, block = [1.0] * dimension, math.inf, 0, 0
    while queries < limit:
        size = math.ceil(dimension / 2**level)
        start, end = block * size, min(dimension, (block + 1) * size)
        attempt = [-s if start <= i < end else s for i, s in enumerate(signs)]
        if fools(attempt, best):
            low, high = 0.0, min(best, math.sqrt(dimension))
            while True:
                middle = (low + high) / 2
                low, high = (low, middle) if fools(attempt, middle) else (middle, high)
                if high - low <= 1e-3:
                    break
            if high < best:
                best, signs = high, attempt
        block += 1
        if block == 2**level or end == dimension:
            level, block = level + 1, 0
    final = point(signs, best)
    return final.view(image.shape), (final - x).norm(p=order).item(), queries


@pytest.fixture(scope="module")
def net64(digits_net):
    return copy.deepcopy(digits_net).double()


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:16].double(), digits[1][:16]


@pytest.fixture
def odd():
    """75 entries, no power of two; the labels of a third of the images are wrong."""
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(75, 16), nn.Tanh(), nn.Linear(16, 4)).double().eval()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
    x = torch.rand(6, 3, 5, 5, generator=generator, dtype=torch.float64)
    y = net(x).argmax(1)
    y[:2] = (y[:2] + 1) % 4
    return net, x, y


@pytest.mark.parametrize(("images", "norm"), [("digits", "Linf"), ("odd", "Linf"), ("odd", "L2")])
def test_every_decision_is_that_of_the_published_algorithm(images, norm, net64, batch, odd):
    net, x, y = odd if images == "odd" else (net64, batch[0][:6], batch[1][:6])
    result = RayS(0.1, 300, norm=norm, stop_at_eps=False).search(net, x, y)
    for i in range(len(x)):
        final, distance, queries = plain_rays(net, x[i], y[i].item(), 300, math.inf if norm == "Linf" else 2)
        assert queries == result.queries[i] >= 300
        torch.testing.assert_close(result.x_final[i], final, rtol=0, atol=1e-12)
        torch.testing.assert_close(result.distance[i].item(), distance, rtol=0, atol=1e-12)
    assert (net(result.x_final).argmax(1) != y).all()


def test_stopping_at_eps_changes_no_decision(net64, batch):
    x, y = batch
    eps = 0.15
    full, short = (RayS(eps, 300, stop_at_eps=stop).search(net64, x, y) for stop in (False, True))
    broken = full.distance <= eps
    assert torch.equal(short.distance <= eps, broken) and 0 < broken.sum() < len(y)
    assert torch.equal(short.x_final[~broken], full.x_final[~broken])
    assert (short.distance >= full.distance).all() and short.queries[broken].max() < 300
    for attack, result in ((RayS(eps, 300), short), (RayS(eps, 300, stop_at_eps=False), full)):
        x_adv = attack(net64, x, y)
        assert torch.equal(x_adv[broken], result.x_final[broken]) and torch.equal(x_adv[~broken], x[~broken])
        assert (x_adv - x).abs().max() <= eps and (net64(x_adv).argmax(1) != y)[broken].all()


@pytest.mark.parametrize("stop", [False, True])
def test_results_depend_on_neither_batches_nor_samples_that_leave(monkeypatch, stop, net64, batch):
    (x, y), attack = batch, RayS(0.1, 90, stop_at_eps=stop)
    whole = attack.search(net64, x, y)
    for a, b in ((0, 1), (1, 7), (7, 16)):
        for part, total in zip(attack.search(net64, x[a:b], y[a:b]), whole, strict=True):
            torch.testing.assert_close(part, total[a:b], rtol=0, atol=1e-12)
    monkeypatch.setattr(rays, "survivors", lambda done, step: done.nonzero()[:0, 0] if done.all() else None)
    for kept, total in zip(attack.search(net64, x, y), whole, strict=True):
        torch.testing.assert_close(kept, total, rtol=0, atol=1e-12)


def test_samples_that_are_through_cost_no_queries(net64, batch):
    passed = []

    def counting(images):
        passed.append(len(images))
        return net64(images)

    RayS(0.15, 400)(counting, *batch)
    assert passed[0] == 16 and passed[-1] < 14 and len(passed) < 400 + 2 * rays.CHECK_EVERY


def test_an_image_never_fooled_is_as_far_as_white_is(batch):
    x, y = batch[0][:3], torch.zeros(3, dtype=torch.int64)

    def constant(images):
        return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)

    result = RayS(0.3, 40).search(constant, x, y)
    assert torch.equal(result.x_final, torch.ones_like(x))
    torch.testing.assert_close(result.distance, (1 - x).flatten(1).amax(1))
    assert torch.equal(RayS(0.3, 40)(constant, x, y), x)


def test_it_sees_the_class_only_and_draws_nothing(digits_net, digits):
    x, y = digits[0][:10], digits[1][:10]
    state = torch.get_rng_state()

    def hard(images):
        return nn.functional.one_hot(digits_net(images).argmax(1), 10).float()

    soft, hard = RayS(0.1, 100)(digits_net, x, y), RayS(0.1, 100)(hard, x, y)
    assert torch.equal(soft, hard) and torch.equal(torch.get_rng_state(), state)
    assert (soft - x).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize(("make", "message"), [
    (lambda: RayS(-1.0), "eps must be greater than 0"), (lambda: RayS(0.1, 0), "queries"),
    (lambda: RayS(0.1, norm="L1"), "norm must be one of Linf, L2"),
])
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
