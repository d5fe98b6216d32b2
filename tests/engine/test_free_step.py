"""Free adversarial training against its algorithm 1, written by hand in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from comparing import FAMILIES, family
from test_capture import Recorder

from atlas_fast import FreeStep, objectives
from atlas_fast.engine.capture import WARM_UP, Captured
from atlas_fast.errors import UserError

EPS, STEP, REPLAYS = 0.1, 0.07, 3


def batches(x, y, count, size=4):
    generator = torch.Generator().manual_seed(3)
    return [(torch.rand(size, *x.shape[1:], dtype=x.dtype, generator=generator),
             torch.randint(5, (size,), generator=generator)) for _ in range(count)]


def adv(**changes):
    return objectives.adv(**{"eps": EPS, "step_size": STEP, **changes})


def sgd(model, **changes):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.0625, "momentum": 0.9, "weight_decay": 1e-3, **changes})


def by_hand(model, optimizer, delta, x, y, ramp=1.0):
    """Algorithm 1 of Shafahi et al. 2019 on one batch; delta is changed. Returns the replays' losses."""
    losses = []
    for _ in range(REPLAYS):
        x_adv = (x + delta[:len(x)]).clamp(0, 1).requires_grad_()
        loss = F.cross_entropy(model(x_adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        delta[:len(x)] = (delta[:len(x)] + ramp * STEP * x_adv.grad.sign()).clamp(-ramp * EPS, ramp * EPS)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_is_algorithm_1(name, engine, fused):
    """Five batches, one of them smaller: delta goes on from batch to batch."""
    model, x, y = family(name)
    other = copy.deepcopy(model)
    step, optimizer = FreeStep(model, adv(), sgd(model, fused=fused), REPLAYS, engine=engine), sgd(other)
    delta, data = torch.zeros_like(x), batches(x, y, 5)
    data[2] = data[2][0][:3], data[2][1][:3]
    for i, (x, y) in enumerate(data):
        step.ramp = ramp = min(1.0, (i + 1) / 3)
        losses = by_hand(other, optimizer, delta, x, y, ramp)
        assert step(x, y)["loss"].item() == pytest.approx(sum(losses) / REPLAYS, rel=1e-9)
    torch.testing.assert_close(step.delta, delta, rtol=0, atol=1e-15)
    assert delta.abs().max() == EPS and step.state_dict()["step"] == 5
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


def test_resume_is_exact():
    model, x, y = family("wide_resnet")
    data = batches(x, y, 4)
    step = FreeStep(model, adv(), sgd(model), REPLAYS, seed=5)
    for batch in data[:2]:
        step(*batch)
    saved = copy.deepcopy((model.state_dict(), step.optimizer.state_dict(), step.state_dict()))
    again = family("wide_resnet")[0]
    resumed = FreeStep(again, adv(), sgd(again), REPLAYS)
    for target, state in zip((again, resumed.optimizer, resumed), saved, strict=True):
        target.load_state_dict(state)
    for batch in data[2:]:
        assert step(*batch)["loss"].item() == resumed(*batch)["loss"].item()
    assert torch.equal(step.delta, resumed.delta) and not torch.equal(step.delta, saved[2]["delta"])
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="holds no 'delta'"):
        resumed.load_state_dict({"seed": 0, "step": 1})


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_gradient_that_is_not_finite_changes_nothing(name, fused):
    """Without BatchNorm the gradients of the other images are finite, and would move delta."""
    model, x, y = family(name)
    step = FreeStep(model, adv(), sgd(model, fused=fused), REPLAYS)
    step(x, y)
    before = copy.deepcopy((model.state_dict(), step.optimizer.state_dict()["state"], step.delta))
    broken = x.clone()
    broken[0, 0, 0, 0] = float("nan")
    step(broken, y)
    assert step.skipped == REPLAYS and torch.equal(step.delta, before[2])
    for a, b in zip(model.state_dict().values(), before[0].values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(step.optimizer.state_dict()["state"].values(), before[1].values(), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])


def test_a_larger_batch_begins_at_zero_where_delta_ends():
    model, x, y = family("small_cnn")
    other, delta = copy.deepcopy(model), torch.zeros(7, *x.shape[1:], dtype=x.dtype)
    step, optimizer = FreeStep(model, adv(), sgd(model), REPLAYS), sgd(other)
    for batch in batches(x, y, 1) + batches(x, y, 1, size=7):
        by_hand(other, optimizer, delta, *batch)
        step(*batch)
    torch.testing.assert_close(step.delta, delta, rtol=0, atol=1e-15)
    with pytest.raises(UserError, match=r"shape \[1, 8, 8\] of the first images, got \[1, 4, 4\]"):
        step(x[:, :, ::2, ::2], y)


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
def test_bfloat16_keeps_delta_in_float32(engine):
    model, x, y = family("wide_resnet")
    model, x = model.float().to(memory_format=torch.channels_last), x.float()
    step = FreeStep(model, adv(), sgd(model), REPLAYS, engine=engine, amp="bf16")
    assert torch.isfinite(step(x, y)["loss"]) and step.skipped == 0
    assert step.delta.dtype == torch.float32 and step.delta.is_contiguous(memory_format=torch.channels_last)
    assert 0 < step.delta.abs().max() <= torch.tensor(EPS)


def test_all_replays_are_one_recording():
    steps = []
    for recorder in (None, Recorder()):
        model = family("wide_resnet")[0].float()
        step = FreeStep(model, adv(), sgd(model, fused=True), REPLAYS, ema=0.9)
        if recorder is not None:
            step._graph = Captured(step._recorded, recorder)
        steps.append(step)
    plain, step = steps
    x, y = (t.float() if t.is_floating_point() else t for t in family("wide_resnet")[1:])
    for i, batch in enumerate(batches(x, y, WARM_UP + 3)):
        assert step(*batch)["loss"].item() == plain(*batch)["loss"].item()
        assert step.captured == (i > WARM_UP)
    assert recorder.recordings == 1 and torch.equal(step.delta, plain.delta)
    step.load_state_dict(copy.deepcopy(step.state_dict()))  # delta lies elsewhere now
    assert step(*batch)["loss"].item() == plain(*batch)["loss"].item() and not step.captured


def test_an_optimizer_that_decides_on_the_host_is_not_recorded():
    model, x, y = family("small_cnn")
    step = FreeStep(model, adv(), sgd(model), REPLAYS)
    step._graph = Captured(step._recorded, Recorder())
    step(x, y)
    assert step._graph is None


@pytest.mark.parametrize(("make", "message"), [
    (lambda m: FreeStep(m, adv(), sgd(m), 0), "replays must be a whole number of at least 1"),
    (lambda m: FreeStep(m, objectives.atlas(EPS, 1.0, 1.0), sgd(m)), "Free trains on the cross-entropy at x' alone"),
    (lambda m: FreeStep(m, objectives.trades(EPS, 1.0), sgd(m)), "give objectives.adv, not trades"),
    (lambda m: FreeStep(m, lambda x: x, sgd(m)), "objective must be one of"),
    (lambda m: FreeStep(m, adv(), sgd(m), awp=0.01), "awp needs an adversary"),
])
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make(family("small_cnn")[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_replays_are_a_graph_and_give_the_same():
    results = []
    for capture in ("off", "on"):
        model, x, y = family("wide_resnet")
        model, x, y = model.float().cuda(), x.float().cuda(), y.cuda()
        step = FreeStep(model, adv(), sgd(model, fused=True), REPLAYS, amp="off", capture=capture)
        losses = [step(x, y)["loss"].item() for _ in range(WARM_UP + 3)]
        assert step.captured == (capture == "on") and (capture == "off" or step.capture_reason is None)
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=0.02)  # two runs differ by what a few signs do
