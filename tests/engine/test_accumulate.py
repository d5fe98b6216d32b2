"""A batch worked off in parts: the gradients, terms and random numbers of the whole batch."""

import copy

import pytest
import torch
from comparing import family, images, objective_of, stirred
from test_capture import Recorder, everything, sgd
from torch import nn

from atlas_fast import FreeStep, YopoStep, models, objectives
from atlas_fast.data import CropFlip
from atlas_fast.engine import TrainingStep
from atlas_fast.engine.capture import Captured
from atlas_fast.errors import UserError

PRESETS = [method for method in objectives.PRESETS if method != "nuat"]


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return stirred(models.small_cnn(5, 1, 8, channels=(3, 4), hidden=7), dtype)


def stepped(objective, parts, kind=TrainingStep, count=2, lr=0.0, **options):
    """The step, its network and its terms after `count` batches of 6; the second finds the flat gradients."""
    model, terms = network(), []
    step = kind(model, objective, torch.optim.SGD(model.parameters(), lr), seed=4, accumulate=parts, **options)
    step.ramp = 0.7
    for i in range(count):
        x, y = images(1, count=6)
        terms.append(step(x.roll(i, 0), y.roll(i, 0)))
    return step, model, terms


def assert_like_the_whole(objective, parts, **options):
    whole, model, expected = stepped(objective, 1, **options)
    step, other, terms = stepped(objective, parts, **options)
    assert max(p.grad.abs().max() for p in model.parameters()) > 1e-3
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(q, p, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(terms, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-9, atol=1e-12)
    return whole, step


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
@pytest.mark.parametrize("method", PRESETS)
def test_gradients_are_those_of_the_whole_batch(method, engine):
    assert_like_the_whole(objective_of(method, steps=1 if method in ("n_fgsm", "grad_align") else 2), 3, engine=engine)


def test_with_weights_perturbed_and_averaged():
    whole, step = assert_like_the_whole(objective_of("atlas"), 2, lr=0.1, awp=0.01, ema=0.5)
    for a, b in zip(whole.averaged.parameters(), step.averaged.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


def test_with_early_stopped_adversaries():
    assert_like_the_whole(objective_of("adv", steps=3).replace(tau=1, omega=0.02), 3)


@pytest.mark.parametrize(("kind", "options"), [(FreeStep, {"replays": 2}), (YopoStep, {"passes": 2})])
def test_of_the_steps_of_their_own(kind, options):
    whole, step = assert_like_the_whole(objectives.adv(0.1, 1), 3, kind=kind, lr=0.1, **options)
    if kind is FreeStep:
        torch.testing.assert_close(step.delta, whole.delta, rtol=1e-9, atol=0)


def test_augmentation_is_that_of_the_whole_batch():
    x, y = (images(1, count=6)[0] * 255).to(torch.uint8), torch.arange(6) % 5
    losses = []
    for parts in (1, 3):
        model = network()
        step = TrainingStep(model, objective_of("atlas"), sgd(model), augment=CropFlip(2), accumulate=parts)
        losses.append(step(x, y)["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)


def test_batch_norm_takes_each_part_by_itself():
    model, x, y = family("wide_resnet")
    alone = copy.deepcopy(model).train()
    step = TrainingStep(model, objectives.plain(), torch.optim.SGD(model.parameters(), 0.0), accumulate=2)
    step(x, y)
    for part, labels in ((x[:2], y[:2]), (x[2:], y[2:])):
        (nn.functional.cross_entropy(alone(part), labels) / 2).backward()
    for a, b in zip(model.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


class Sore(nn.Module):
    """Not finite for images that begin with 0.5."""

    def __init__(self):
        super().__init__()
        self.net = network(torch.float32)

    def forward(self, x):
        return self.net(x) * torch.where(x[:, 0, 0, 0] == 0.5, torch.nan, 1.0)[:, None]


@pytest.mark.parametrize("fused", [False, True])
def test_one_part_that_is_not_finite_spoils_the_batch(fused):
    model, (x, y) = Sore(), images(1, count=6, dtype=torch.float32)
    step = TrainingStep(model, objectives.plain(), sgd(model, fused=fused), accumulate=3)
    step(x, y)
    before = everything(step)
    x[3, 0, 0, 0] = 0.5
    step(x, y)
    assert step.skipped == 1 and torch.equal(everything(step), before)


def test_the_parts_are_in_one_recording():
    data, steps = [images(1, count=6, dtype=torch.float32) for _ in range(6)], []
    for recorder in (None, Recorder()):
        model = network(torch.float32)
        step = TrainingStep(model, objective_of("atlas"), sgd(model, fused=True), accumulate=2)
        step._graph = recorder and Captured(step._recorded, recorder)
        for i, (x, y) in enumerate(data):
            step(x.roll(i, 0), y.roll(i, 0))
        steps.append(step)
    assert steps[1].captured and recorder.recordings == 1 and torch.equal(*map(everything, steps))


def test_refusals():
    model, (x, y) = network(), images(1, count=6)
    for accumulate, message in ((0, "accumulate"), (1.5, "accumulate"), (True, "accumulate")):
        with pytest.raises(UserError, match=message):
            TrainingStep(model, objective_of("atlas"), sgd(model), accumulate=accumulate)
    with pytest.raises(UserError, match="nuat ties all samples of a batch by one nuclear norm"):
        TrainingStep(model, objective_of("nuat"), sgd(model), accumulate=2)
    step = TrainingStep(model, objective_of("atlas"), sgd(model), accumulate=4)
    with pytest.raises(UserError, match="a batch of 6 images cannot be worked off in 4 equal parts"):
        step(x, y)
    assert step.state_dict()["step"] == 0
