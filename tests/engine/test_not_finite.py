"""A step whose gradient is not finite changes nothing but its counter and the random numbers."""

import copy

import pytest
import torch
from comparing import atlas, family

from atlas_fast.engine import TrainingStep

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device")])]


def state(step):
    return copy.deepcopy((step.model.state_dict(), [dict(s) for s in step.optimizer.state.values()]))


def assert_equal(a, b):
    for x, y in zip(a[0].values(), b[0].values(), strict=True):
        assert torch.equal(x, y)
    for x, y in zip(a[1], b[1], strict=True):
        assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_moves(bad, engine, fused, device):
    model, x, y = family("wide_resnet")
    model, x, y = model.float().to(device), x.float().to(device), y.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    step = TrainingStep(model, atlas(), optimizer, engine=engine, amp="off")
    step(x, y)
    before = state(step)
    broken = x.clone()
    broken[1, 0, 2, 2] = bad
    for _ in range(2):
        assert not torch.isfinite(step(broken, y)["loss"])
        assert_equal(state(step), before)
    assert step.skipped == 2 and step.state_dict()["step"] == 3
    assert torch.isfinite(step(x, y)["loss"]) and step.skipped == 2
    assert not torch.equal(state(step)[0]["fc.weight"], before[0]["fc.weight"])


def test_the_first_step_may_be_the_bad_one():
    model, x, y = family("small_cnn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    step = TrainingStep(model, atlas(), optimizer)
    before = copy.deepcopy(model.state_dict())
    step(x * float("nan"), y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) and step.skipped == 1
    assert all(not s["momentum_buffer"].any() for s in optimizer.state.values())


def test_gradients_lie_in_one_buffer():
    model, x, y = family("wide_resnet")
    model.conv.weight.requires_grad_(False)
    model.to(memory_format=torch.channels_last)
    step = TrainingStep(model, atlas(), torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        step(x, y)
        (buffer,) = step._update.flat.buffers
        for p in model.parameters():
            if p.requires_grad:
                assert p.grad.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
                assert p.grad.stride() == p.stride() and p.grad.data_ptr() % 64 == buffer.data_ptr() % 64
    assert model.conv.weight.grad is None


def test_a_parameter_that_joins_later_is_trained():
    model, x, y = family("small_cnn")
    model.conv1.weight.requires_grad_(False)
    step = TrainingStep(model, atlas(), torch.optim.SGD(model.parameters(), lr=0.1))
    step(x, y)
    before = model.conv1.weight.clone()
    model.conv1.weight.requires_grad_(True)
    step(x, y)
    assert model.conv1.weight in step._update.flat.slots and not torch.equal(model.conv1.weight, before)
