"""The moving average of the weights against its formula, written by hand in float64."""

import copy

import pytest
import torch
from comparing import family, objective_of
from test_capture import Recorder

from atlas_fast.engine import TrainingStep
from atlas_fast.engine.capture import WARM_UP, Captured
from atlas_fast.errors import UserError

DECAY = 0.3  # reached in the fourth step: (1 + 3) / (10 + 3) > 0.3


def make(fused=False, **options):
    model, x, y = family("wide_resnet")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)
    return TrainingStep(model, objective_of("adv"), optimizer, seed=1, ema=DECAY, **options), x, y


def by_hand(average, state, t):
    d = min(DECAY, (1 + t) / (10 + t))
    return {name: d * average[name] + (1 - d) * value if value.is_floating_point() else value.clone()
            for name, value in state.items()}


@pytest.mark.parametrize("fused", [False, True])
def test_is_the_formula_over_several_steps(fused):
    """Skipped steps do not count; running statistics follow like weights, counters are copied."""
    step, x, y = make(fused)
    average, t = copy.deepcopy(step.model.state_dict()), 0
    for i in range(8):
        if i == 2:
            step(x * float("nan"), y)
        else:
            step(x, y)
            average, t = by_hand(average, step.model.state_dict(), t), t + 1
        for name, value in step.averaged.state_dict().items():
            torch.testing.assert_close(value, average[name], rtol=1e-12, atol=1e-14, msg=name)
    assert step.skipped == 1 and step.state_dict()["average"]["steps"] == 7
    assert not any(m.training for m in step.averaged.modules()) and step.model.training
    assert not any(p.requires_grad for p in step.averaged.parameters())


def test_resume_is_exact():
    step, x, y = make()
    for _ in range(3):
        step(x, y)
    saved = copy.deepcopy((step.model.state_dict(), step.optimizer.state_dict(), step.state_dict()))
    resumed = make()[0]
    for target, state in zip((resumed.model, resumed.optimizer, resumed), saved, strict=True):
        target.load_state_dict(state)
    for s in (step, resumed):
        for _ in range(2):
            s(x, y)
    for a, b in zip(step.averaged.state_dict().values(), resumed.averaged.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="holds no 'average'"):
        resumed.load_state_dict({"seed": 0, "step": 1})


def test_recorded_or_beside_a_recording():
    """With a fused optimiser it is part of the graph, with another it follows."""
    for fused in (True, False):
        plain, x, y = make(fused)
        step = make(fused)[0]
        step._graph = Captured(step._recorded, Recorder())
        for _ in range(WARM_UP + 3):
            for s in (plain, step):
                s(x, y)
        assert step.captured
        for a, b in zip(step.averaged.state_dict().values(), plain.averaged.state_dict().values(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0, float("nan"), "a"])
def test_wrong_decays_are_refused(decay):
    model, _, _ = family("small_cnn")
    with pytest.raises(UserError, match="ema must"):
        TrainingStep(model, objective_of("adv"), torch.optim.SGD(model.parameters(), lr=0.1), ema=decay)


def test_without_it_there_is_none():
    model, _, _ = family("small_cnn")
    assert TrainingStep(model, objective_of("adv"), torch.optim.SGD(model.parameters(), lr=0.1)).averaged is None
