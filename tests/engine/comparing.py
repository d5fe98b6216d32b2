"""What the tests of the sweeps share: networks, images, and both views' gradients of one step."""

import copy

import torch

from atlas_fast import models, objectives, ops
from atlas_fast.engine import AutogradView, SweepView, program

KEYWORDS = {"eps": 0.1, "alpha": 0.02, "beta": 0.5, "steps": 1}


def objective_of(method, **changes):
    keywords = {**KEYWORDS, **changes}
    return objectives.create(method, **{k: v for k, v in keywords.items() if k in objectives.parameters(method)})


def atlas(**changes):
    return objective_of("atlas", **changes)


def images(model_channels=3, size=8, count=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, model_channels, size, size, dtype=dtype, generator=generator), torch.arange(count) % 5


def stirred(model, dtype=torch.float64):
    """Biases, gammas and running statistics that are not 0 and 1."""
    model, generator = model.to(dtype), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dtype == dtype and value.dim() == 1:
                noise = torch.rand(value.shape, dtype=dtype, generator=generator)
                value.copy_(0.5 + noise if "var" in name else value + 0.3 * (noise - 0.5))
    return model


def gradients(view, objective, x, y):
    """(loss, x', {name: gradient}, buffers) of one training step without its update."""
    prepared = program.prepare(objective, view, x, y, rng=ops.make_rng(3, 1))
    prepared.accumulate()
    grads = {name: p.grad for name, p in view.model.named_parameters()}
    return prepared.loss, grads, dict(view.model.named_buffers())


def assert_same(model, objective, x, y, bn_mode="train", rtol=1e-9, **options):
    """x' follows from the rng: an x' that differed would show in every gradient. options: of SweepView."""
    views = AutogradView(copy.deepcopy(model), bn_mode), SweepView(copy.deepcopy(model), bn_mode, **options)
    results = [gradients(view, objective, x, y) for view in views]
    (loss, expected, buffers), (own_loss, own, own_buffers) = results
    torch.testing.assert_close(own_loss, loss, rtol=1e-12, atol=0)
    largest = max(g.norm() for g in expected.values() if g is not None)
    for name, g in expected.items():
        assert (own[name] is None) == (g is None), name
        if g is not None:  # a bias before BatchNorm has a zero gradient, of which only rounding is left
            assert (own[name] - g).norm() <= rtol * torch.maximum(g.norm(), 1e-6 * largest), name
    for name, value in buffers.items():
        torch.testing.assert_close(own_buffers[name], value, rtol=1e-12, atol=1e-14)
    return own


FAMILIES = {
    "small_cnn": (lambda: models.small_cnn(5, 1, 8, channels=(3, 4), hidden=7), 1),
    "wide_resnet": (lambda: models.wide_resnet(10, 1, 5, normalize=((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))), 3),
}


def family(name):
    torch.manual_seed(0)
    make, channels = FAMILIES[name]
    return stirred(make()), *images(channels)
