"""TrainingStep against a loop written by hand, its random numbers, its inputs and its refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import atlas_fast.objectives as objectives
from atlas_fast import ops
from atlas_fast.data import CropFlip
from atlas_fast.engine import TrainingStep
from atlas_fast.errors import UserError

EPS, ALPHA, BETA = 0.1, 0.02, 0.5


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(),
                         nn.Linear(64, 5)).to(dtype)


def batches(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(6, 3, 4, 4, dtype=dtype, generator=generator), torch.randint(5, (6,), generator=generator))
            for _ in range(count)]


def atlas(**changes):
    return objectives.atlas(**{"eps": EPS, "alpha": ALPHA, "beta": BETA, **changes})


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def hand_written_step(model, optimizer, x, y, rng, ramp):
    """One-step ATLAS as one would write it in plain PyTorch (BatchNorm uses batch statistics throughout)."""
    eps = EPS * ramp
    start = ops.random_start_reference(x, eps, None, rng).requires_grad_()
    statistics = copy.deepcopy(model[1].state_dict())
    (g,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
    model[1].load_state_dict(statistics)
    x_adv = (start + 1.25 * eps * g.sign()).clamp(x - eps, x + eps).clamp(0, 1).detach().requires_grad_()
    z_adv, z = model(x_adv), model(x)
    (v,) = ops.unit_vectors(rng, 6, 5).double()
    (vJ,) = torch.autograd.grad((z_adv * v).sum(), x_adv, create_graph=True)
    p, q = z_adv.softmax(1), z.softmax(1)
    kl = (p * (p.log() - q.log())).sum(1).mean()
    loss = F.cross_entropy(z_adv, y) + ramp * ALPHA * 5 * vJ.square().sum() / 6 + ramp * BETA * kl
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_is_a_hand_written_loop():
    model = net()
    by_hand = copy.deepcopy(model)
    optimizer, other = sgd(model), sgd(by_hand)
    step = TrainingStep(model, atlas(), optimizer, seed=7)
    for i, (x, y) in enumerate(batches(5)):
        step.ramp = ramp = min(1.0, i / 3)
        terms = step(x, y)
        expected = hand_written_step(by_hand, other, x, y, ops.make_rng(7, i), ramp)
        assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-9)
    for a, b in zip(model.state_dict().values(), by_hand.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", list(objectives.PRESETS))
def test_gradients_are_those_of_calling_the_objective(method):
    model = net()
    other = copy.deepcopy(model)
    keywords = {"eps": EPS, "alpha": ALPHA, "beta": BETA, "steps": 2}
    objective = objectives.create(method, **{k: v for k, v in keywords.items() if k in objectives.parameters(method)})
    (x, y), = batches(1)
    terms = TrainingStep(model, objective, torch.optim.SGD(model.parameters(), lr=0.0), seed=3)(x, y)
    loss = objective(other, x, y, rng=ops.make_rng(3))
    loss.backward()
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-12) and set(terms) == set(objective.terms)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def run(model, optimizer, step, data):
    losses = [step(x, y)["loss"].item() for x, y in data]
    return losses, torch.cat([p.detach().flatten() for p in model.parameters()])


def test_same_seed_same_run_and_other_seed_another():
    data, results = batches(3, torch.float32), []
    for seed in (5, 5, 6):
        model = net(torch.float32)
        optimizer = sgd(model)
        results.append(run(model, optimizer, TrainingStep(model, atlas(), optimizer, seed=seed), data))
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])
    assert results[0][0] != results[2][0]


def test_resume_is_exact():
    data, model = batches(6), net()
    optimizer = sgd(model)
    step = TrainingStep(model, atlas(), optimizer, seed=2**40 + 1)
    run(model, optimizer, step, data[:3])
    assert step.state_dict() == {"seed": 2**40 + 1, "step": 3}
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), step.state_dict()))
    expected = run(model, optimizer, step, data[3:])
    again = net()
    other = sgd(again)
    resumed = TrainingStep(again, atlas(), other, seed=0)
    for target, state in zip((again, other, resumed), saved, strict=True):
        target.load_state_dict(state)
    losses, weights = run(again, other, resumed, data[3:])
    assert losses == expected[0] and torch.equal(weights, expected[1])


def test_uint8_images_are_divided_by_255_and_then_augmented():
    x = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8)
    y, seen = torch.arange(6) % 5, []

    def flip(images, rng):
        seen.append((images, rng.tolist()))
        return images.flip(3)

    losses = []
    for images, augment in ((x, flip), (x.float().flip(3) / 255, None)):
        model = net(torch.float32)
        losses.append(TrainingStep(model, atlas(), sgd(model), augment=augment, seed=4)(images, y)["loss"].item())
    assert losses[0] == losses[1]
    assert torch.equal(seen[0][0], x.float() / 255) and seen[0][1] == [4, 0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_crop_flip_takes_the_bytes_and_writes_the_models_layout(dtype, layout, monkeypatch):
    x = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8)
    crop, seen = CropFlip(padding=1), []
    monkeypatch.setattr(CropFlip, "__call__", lambda self, *args, **keywords: seen.append((args, keywords)) or (
        ops.crop_flip(args[0], args[1], 1, **keywords)))
    step = TrainingStep(model := net(dtype).to(memory_format=layout), atlas(), sgd(model), augment=crop, seed=4)
    images = step._images(x)
    assert seen[0][0][0] is x and seen[0][1] == {"memory_format": layout}
    assert images.dtype == dtype and images.is_contiguous(memory_format=layout)
    assert torch.equal(images, ops.crop_flip(x, ops.make_rng(4), 1).to(dtype))
    assert torch.isfinite(step(x, torch.arange(6) % 5)["loss"])


def test_images_become_channels_last_with_the_model():
    seen = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = net(torch.float32).to(memory_format=layout)
        model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        (x, y), = batches(1, torch.float32)
        TrainingStep(model, atlas(), sgd(model))(x, y)
    assert all(x.is_contiguous() for x in seen[:3])
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen[3:]) and len(seen) == 6


def test_frozen_parameters_get_no_gradient_and_stay():
    model = net()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    (x, y), = batches(1)
    TrainingStep(model, atlas(), sgd(model))(x, y)
    assert model[0].weight.grad is None and torch.equal(model[0].weight, before) and model[4].weight.grad is not None


@pytest.mark.parametrize("method", ["atlas_g", "atlas"])
def test_bfloat16_on_a_cpu(method):
    """With float32 images, with a Jacobian penalty as well (see test_convolution_fix.py for its precision)."""
    model = net(torch.float32)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    (x, y), = batches(1, torch.float32)
    keywords = {"eps": EPS, "alpha": ALPHA, "beta": BETA}
    objective = objectives.create(method, **{k: v for k, v in keywords.items() if k in objectives.parameters(method)})
    step = TrainingStep(model, objective, sgd(model), amp="bf16")
    assert step.engine == "autograd" and torch.isfinite(step(x, y)["loss"]) and set(seen) == {torch.float32}
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        objective(model, x, y).backward()
    assert TrainingStep(model, objective, sgd(model), amp="auto").amp is None


@pytest.mark.parametrize(("keywords", "message"), [
    ({"engine": "warp"}, "engine must be one of auto, sweeps, autograd"),
    ({"amp": "fp8"}, "amp must be one of auto, bf16, fp16, off"),
    ({"bn_mode": "frozen"}, "bn_mode must be one of train, eval"),
])
def test_unknown_settings_are_refused(keywords, message):
    model = net()
    with pytest.raises(UserError, match=message):
        TrainingStep(model, atlas(), sgd(model), **keywords)


def test_something_else_than_an_objective_is_refused():
    model = net()
    with pytest.raises(UserError, match="objective must be one of atlas_fast.objectives, got function"):
        TrainingStep(model, lambda model, x, y: model(x).sum(), sgd(model))


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(UserError, match="holds none of the model's trainable parameters"):
        TrainingStep(net(), atlas(), sgd(net()))


def test_bad_inputs_are_refused():
    model = net(torch.float32)
    step = TrainingStep(model, atlas(), sgd(model))
    (x, y), = batches(1, torch.float32)
    before = copy.deepcopy(model.state_dict())
    wrong = [(x.bfloat16(), y, "too coarse"), (x.long(), y, "float images"), (x, y.int(), "int64"),
             (x, y + 5, "labels must lie in 0..4"), (x.numpy(), y, "tensor on the model's device")]
    for images, labels, message in wrong:
        with pytest.raises(UserError, match=message):
            step(images, labels)
    one = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 1))
    for engine in ("sweeps", "autograd"):
        with pytest.raises(UserError, match="at least 2 classes"):
            TrainingStep(one, atlas(), sgd(one), engine)(x, torch.zeros_like(y))
    for ramp in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="ramp"):
            step.ramp = ramp
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert step.state_dict()["step"] == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", list(objectives.PRESETS))
def test_a_step_does_not_synchronise_with_the_host(method):
    model = net(torch.float32).to("cuda", memory_format=torch.channels_last)
    keywords = {"eps": EPS, "alpha": ALPHA, "beta": BETA, "steps": 2}
    objective = objectives.create(method, **{k: v for k, v in keywords.items() if k in objectives.parameters(method)})
    step = TrainingStep(model, objective, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True))
    (x, y), = batches(1, torch.float32)
    x, y = x.cuda(), y.cuda()
    step(x, y)
    step.ramp = 0.5
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms = step(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.amp == torch.bfloat16 and torch.isfinite(terms["loss"])
