"""amp="fp16": the scale moves as GradScaler's does, mends what float16 loses, and an overflow is no error."""

import copy
from types import SimpleNamespace

import pytest
import torch
from comparing import images, objective_of
from test_accumulate import Sore
from test_capture import Recorder, everything, sgd
from torch import nn

from atlas_fast import FreeStep, YopoStep, objectives, ops
from atlas_fast.engine import AutogradView, Ranks, SweepView, TrainingStep, loss_scale, program
from atlas_fast.engine.capture import Captured
from atlas_fast.engine.loss_scale import LossScale, ScaledView
from atlas_fast.errors import UserError

CPU = torch.device("cpu")
NO, YES = torch.tensor(False), torch.tensor(True)
LOSS = torch.tensor(0.5)


def network(normed=True):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6) if normed else nn.Identity()
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), norm, nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
                         nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 5))


def data(count=8):
    return images(1, count=count, dtype=torch.float32)


def test_moves_as_grad_scaler_does(monkeypatch):
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    weight = nn.Parameter(torch.ones(2))
    optimizer, theirs = torch.optim.SGD([weight], 0.0), torch.amp.GradScaler("cpu", growth_interval=3)
    ours, overflows = LossScale(CPU, Ranks.alone()), torch.rand(40, generator=torch.Generator().manual_seed(1)) < 0.25
    for overflow in overflows:
        theirs.scale(weight.sum()).backward()
        weight.grad.fill_(torch.inf if overflow else 1.0)
        theirs.step(optimizer)
        theirs.update()
        ours.start()
        assert ours.settle(overflow, LOSS)[0] == overflow
        assert float(ours.value) == theirs.get_scale()
    assert int(ours.backoffs) == overflows.sum() > 3 and float(ours.value) != loss_scale.FIRST


def settled(scale, *, early=False, unusable=False, loss=0.5):
    scale.start()
    scale.note(torch.tensor(early))
    return [bool(flag) for flag in scale.settle(torch.tensor(unusable), torch.tensor(loss))]


def test_what_a_scale_cannot_mend_is_not_finite():
    """[leave the step out, count it as not finite]."""
    scale = LossScale(CPU, Ranks.alone())
    assert settled(scale) == [False, False] and settled(scale, unusable=True) == [True, False]
    assert settled(scale, early=True) == [True, False]
    assert settled(scale, early=True, unusable=True, loss=torch.nan) == [True, False]
    before = float(scale.value)
    assert settled(scale, unusable=True, loss=torch.nan) == [True, True] and float(scale.value) == before
    scale.value.fill_(1.0)
    assert settled(scale, unusable=True) == [True, True] and float(scale.value) == 1.0 and int(scale.backoffs) == 3


def test_all_processes_decide_alike():
    """What one of them saw early, or its loss, counts for all."""
    for flags, expected in (((0.0, 0.0), [False, False]), ((1.0, 0.0), [True, False])):
        scale = LossScale(CPU, SimpleNamespace(add=lambda own, flags=flags: own + torch.tensor(flags)))
        assert settled(scale) == expected
    scale = LossScale(CPU, SimpleNamespace(add=lambda own: own + torch.tensor((0.0, 1.0))))
    assert settled(scale, unusable=True) == [True, True]


def stepped(model, objective, amp, kind=TrainingStep, scale=None, lr=0.0, **options):
    """(step, terms, the gradients as one) of a step on a copy."""
    model = copy.deepcopy(model)
    step = kind(model, objective, torch.optim.SGD(model.parameters(), lr), amp=amp, seed=4, **options)
    if scale is not None:
        step._scale.value.fill_(scale)
    terms = step(*data())
    return step, terms, torch.cat([p.grad.flatten() for p in model.parameters()])


def error(gradient, expected):
    return float((gradient - expected).norm() / expected.norm())


def smoothed(logits, x, y):
    (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return g.square().sum()


CASES = {"plain": objectives.plain(), "jac": objectives.jac(alpha=0.5), "projections": objectives.jac(0.5, 2),
         "local": objectives.jac(alpha=0.5).replace(local=smoothed),
         "alignment": objectives.grad_align(eps=1e-4, alpha=0.2), "llr": objectives.llr(1e-3, 2.0, 0.5, steps=2)}


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
@pytest.mark.parametrize("name", list(CASES))
def test_gradients_are_closer_than_in_bfloat16(name, engine):
    """Adversaries hardly move here, since a pixel whose sign differs is no error; of llr they do."""
    if name == "local" and engine == "sweeps":
        return
    gradients = {amp: stepped(network(normed=False), CASES[name], amp, engine=engine)[2]
                 for amp in ("off", "bf16", "fp16")}
    ours = error(gradients["fp16"], gradients["off"])
    assert ours < 0.1 if name == "llr" else ours < 0.25 * error(gradients["bf16"], gradients["off"])


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
@pytest.mark.parametrize("name", ["projections", "alignment"])
def test_overflows_end_at_a_scale_that_is_right(name, engine):
    """PyTorch's double backward of BatchNorm sums in float16. A ReLU's side of 0 differs here and there."""
    expected = stepped(network(), CASES[name], "off", engine=engine)[2]
    step, _, found = stepped(network(), CASES[name], "fp16", scale=2.0**20, engine=engine)
    while not found.isfinite().all():
        step.rng[1] = 0
        step(*data())
        found = torch.cat([p.grad.flatten() for p in step.model.parameters()])
    assert error(found, expected) < 0.1 and 0 < step.backoffs < 15 and step.skipped == 0


def penalty_alone(view, x, v):
    """The weight gradients of ||v^T J||^2, as one, times whatever the view scales them by."""
    tape = view.forward({"x": x}, wrt=("x",))
    g = tape.backward({"x": v[None]}, weights=False, record=True)["x"]
    tape.tangent("x", 2 * g)
    tape.backward({"x": torch.zeros_like(tape.logits["x"])}, weights=True)
    return g, torch.cat([p.grad.flatten() for p in view.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("engine", [SweepView, AutogradView])
def test_the_scale_saves_small_jacobians(engine):
    """Logits of a thousandth: v^T J and its tangent fall below float16's smallest numbers on their way."""
    model, (x, _), scale = network(normed=False), data(), LossScale(CPU, Ranks.alone())
    model[-1].weight.data.mul_(1e-3)
    (v,) = ops.unit_vectors(ops.make_rng(1), 8, 5)
    g, expected = penalty_alone(engine(copy.deepcopy(model)), x, v)
    errors = {}
    for value in (1.0, 2.0**16):
        scale.value.fill_(value)
        ours, found = penalty_alone(ScaledView(engine(copy.deepcopy(model), amp=torch.float16), scale), x, v)
        errors[value] = error(ours, g), error(found / value, expected)
    assert max(errors[2.0**16]) < 0.02 and errors[1.0][1] > 5 * errors[2.0**16][1]


@pytest.mark.parametrize("engine", [SweepView, AutogradView])
def test_adversaries_of_a_confident_network_move(engine):
    """Its cross-entropy's gradient is too small for float16, and sign(0) = 0 leaves pixels where they are."""
    model, (x, _), scale = network(normed=False), data(), LossScale(CPU, Ranks.alone())
    model[-1].bias.data[2] = 15.0
    how, y, moved = objective_of("adv").replace(start="zero", step_size=0.01), torch.full((8,), 2), {}
    for value in (None, 1.0, 2.0**16):
        scale.value.fill_(value or 1.0)
        view = engine(model) if value is None else ScaledView(engine(model, amp=torch.float16), scale)
        moved[value] = (program.craft(how, view, x, y, ramp=1.0, rng=ops.make_rng(0)) - x).sign()
    agree = {value: float((signs == moved[None]).double().mean()) for value, signs in moved.items()}
    assert agree[2.0**16] > 0.98 and agree[1.0] < 0.6


@pytest.mark.parametrize("options", [{}, {"engine": "autograd"}, {"awp": 0.01, "ema": 0.5}, {"accumulate": 2}])
@pytest.mark.parametrize("fused", [True, False])
def test_an_overflow_moves_the_scale_and_nothing_else(fused, options):
    model = network()
    step = TrainingStep(model, objective_of("atlas"), sgd(model, fused=fused), amp="fp16", **options)
    step(*data())
    step._scale.value.fill_(2.0**40)
    before, average = everything(step), copy.deepcopy(step.averaged)
    terms = step(*data())
    assert torch.equal(everything(step), before) and all(value.isfinite() for value in terms.values())
    assert (step.backoffs, step.skipped, step.loss_scale) == (1, 0, 2.0**39)
    if average is not None:
        assert all(map(torch.equal, average.parameters(), step.averaged.parameters()))
    for _ in range(40):
        if step.loss_scale <= 2.0**10:
            break
        step._scale.value.mul_(0.25)
    step(*data())
    assert step.backoffs == 1 and not torch.equal(everything(step), before)


def test_what_is_not_finite_without_a_scale_is_counted():
    model, (x, y) = Sore(), data(6)
    step = TrainingStep(model, objectives.plain(), sgd(model, fused=True), amp="fp16")
    x[3, 0, 0, 0] = 0.5
    step(x, y)
    assert (step.skipped, step.backoffs, step.loss_scale) == (1, 0, loss_scale.FIRST)


@pytest.mark.parametrize(("kind", "options"), [(FreeStep, {"replays": 2}), (YopoStep, {"passes": 2})])
def test_the_steps_of_their_own(kind, options):
    objective = objectives.adv(1e-4, 1)
    (_, terms, expected), (step, other, found) = (
        stepped(network(normed=False), objective, amp, kind, lr=0.01, **options) for amp in ("off", "fp16"))
    assert error(found, expected) < 0.02 and abs(terms["loss"] - other["loss"]) < 1e-3 and step.backoffs == 0


def test_replays_and_resumed_steps_are_steps():
    steps, recorder = [], Recorder()
    for graph in (None, recorder):
        model = network()
        step = TrainingStep(model, objective_of("atlas"), sgd(model, fused=True), amp="fp16")
        step._scale.value.fill_(2.0**24)  # overflows some times
        step._graph = graph and Captured(step._recorded, graph)
        steps.append(step)
    for _ in range(7):
        for step in steps:
            step(*data())
    assert steps[1].captured and recorder.recordings == 1 and torch.equal(*map(everything, steps))
    state = steps[0].state_dict()
    assert state == steps[1].state_dict() and state["loss_scale"]["backoffs"] == steps[0].backoffs > 0
    model = copy.deepcopy(steps[0].model)
    resumed = TrainingStep(model, objective_of("atlas"), sgd(model, fused=True), amp="fp16")
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state and resumed.loss_scale == steps[0].loss_scale
    with pytest.raises(UserError, match="holds no 'loss_scale'"):
        resumed.load_state_dict({"seed": 0, "step": 0})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"engine": "autograd"}, {"awp": 0.01, "ema": 0.9}])
def test_captured_on_a_gpu_and_without_the_host(options):
    model = network().to("cuda", memory_format=torch.channels_last)
    step = TrainingStep(model, objective_of("atlas"), sgd(model, fused=True), amp="fp16", **options)
    x, y = (t.cuda() for t in data())
    step(x, y)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(4):
        terms = step(x, y)
    assert step.captured and step.capture_reason is None and torch.isfinite(terms["loss"])
    step._scale.value.fill_(2.0**40)
    before = everything(step)
    step(x, y)
    assert torch.equal(everything(step), before) and step.skipped == 0 and step.loss_scale == 2.0**39
