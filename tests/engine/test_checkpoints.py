"""Activations computed again: the same gradients and running statistics, in less memory."""

import copy
import weakref

import pytest
import torch
from comparing import family, images, objective_of, stirred
from test_capture import Recorder, everything, sgd
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atlas_fast import FreeStep, YopoStep, models, objectives, ops
from atlas_fast.engine import AutogradView, SweepView, TrainingStep, program
from atlas_fast.engine.capture import Captured
from atlas_fast.engine.checkpoints import blocks
from atlas_fast.engine.graph import build
from atlas_fast.engine.recomputed import segments
from atlas_fast.errors import UserError

VIEWS = {"sweeps": SweepView, "autograd": AutogradView}


def residual(depth=10):
    torch.manual_seed(0)
    return stirred(models.wide_resnet(depth, 1, 5, normalize=((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))))


def in_place(count=4):
    """Blocks that overwrite their activations, and end in them."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.relu = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(6, 6, 1)

        def forward(self, x):
            y = self.conv2(self.relu(self.norm(self.conv(x))))
            y += x
            return self.relu(y)

    blocks = nn.Sequential(*(Block() for _ in range(count)))
    return stirred(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), blocks,
                                 nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)))


def stepped(make, objective, checkpoints, kind=TrainingStep, **options):
    model, (x, y) = make(), images()
    step = kind(model, objective, torch.optim.SGD(model.parameters(), 0.0), seed=2, awp=options.pop("awp", None),
                checkpoint_activations=checkpoints, **options)
    for _ in range(2):
        terms = step(x, y)
    return model, terms


def assert_same(make, objective, **options):
    (model, expected), (other, terms) = (stepped(make, objective, on, **options) for on in (False, True))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-11)
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=0)
    assert all(torch.allclose(terms[name], value, rtol=1e-9) for name, value in expected.items())
    assert not any("forward" in vars(module) for module in other.modules())


@pytest.mark.parametrize("engine", list(VIEWS))
@pytest.mark.parametrize(("method", "make"), [("plain", in_place), ("jac", in_place), ("atlas", in_place),
                                              ("atlas", residual), ("llr", residual)])
def test_gradients_and_running_statistics_are_the_same(method, make, engine):
    assert_same(make, objective_of(method, num_projections=2 if method == "jac" else 1), engine=engine)


@pytest.mark.parametrize("engine", list(VIEWS))
@pytest.mark.parametrize("options", [{"bn_mode": "eval"}, {"awp": 0.01}, {"accumulate": 2}])
def test_with_other_options(options, engine):
    assert_same(in_place, objective_of("trades"), engine=engine, **options)


def test_of_free():
    assert_same(residual, objectives.adv(0.1, 1), kind=FreeStep, replays=2)


class Memory(TorchDispatchMode):
    """peak: the most bytes of tensors that were alive at one time, of those made inside."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak, self._seen = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen and storage._cdata not in given:  # a view is no new memory
                    self._seen[storage._cdata] = size = storage.nbytes()
                    self.alive += size
                    weakref.finalize(storage, self._freed, storage._cdata, size)
        self.peak = max(self.peak, self.alive)
        return results

    def _freed(self, key, size):
        self._seen.pop(key, None)
        self.alive -= size


def peak(method, engine, checkpoints):
    """Of a network whose weights are few, in bytes."""
    (x, y), view = images(size=16), VIEWS[engine](in_place(12), checkpoints=checkpoints)
    with Memory() as memory:
        program.prepare(objective_of(method), view, x, y, rng=ops.make_rng(1)).accumulate()
    return memory.peak


@pytest.mark.parametrize(("engine", "method", "most"), [
    ("sweeps", "adv", 0.5), ("sweeps", "atlas", 0.5), ("sweeps", "jac", 0.5), ("autograd", "adv", 0.5),
    ("autograd", "atlas", 0.9)])  # which keeps all of the point of the Jacobian penalty
def test_the_peak_falls(engine, method, most):
    before, after = (peak(method, engine, on) for on in (False, True))
    assert after < most * before


def test_dropout_draws_the_same_again():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), *(nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)) for _ in range(3)),
                          nn.Linear(64, 5)).double()
    (x, y), results = images(1), []
    for checkpoints in (False, True):
        view = AutogradView(copy.deepcopy(model), checkpoints=checkpoints)
        torch.manual_seed(5)
        program.prepare(objectives.plain(), view, x, y).accumulate()
        results.append(torch.cat([p.grad.flatten() for p in view.model.parameters()]))
    assert torch.equal(*results)


def test_segments_part_a_network_where_few_values_are_in_use():
    network = build(residual(40))
    found = segments(network)
    assert found[0][0] == 0 and found[-1][1] == len(network.steps)
    assert all(stop == first for (_, stop), (first, _) in zip(found, found[1:], strict=False))
    assert 4 < len(found) < 12 and max(stop - first for first, stop in found) < 14


def test_blocks_are_found():
    model = residual(16)
    assert len(model.groups) == 6 and blocks(model) == list(model.groups) and len(blocks(in_place())) == 4
    assert blocks(nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2)]))[0][0].in_features == 2
    small = family("small_cnn")[0]
    with pytest.raises(UserError, match="finds no blocks in SmallCNN"):
        TrainingStep(small, objective_of("adv"), sgd(small), engine="autograd", checkpoint_activations=True)
    with pytest.raises(UserError, match="pair='on' and checkpoint_activations"):
        TrainingStep(model, objective_of("adv"), sgd(model), pair="on", checkpoint_activations=True)
    with pytest.raises(UserError, match="does not reach YOPO's passes"):
        YopoStep(small, objectives.adv(0.1, 1), sgd(small), checkpoint_activations=True)


def test_replays_are_steps():
    steps = []
    for recorder in (None, Recorder()):
        model = residual(10).float()
        step = TrainingStep(model, objective_of("atlas"), sgd(model, fused=True), checkpoint_activations=True)
        step._graph = recorder and Captured(step._recorded, recorder)
        for _ in range(6):
            step(*images(dtype=torch.float32))
        steps.append(step)
    assert steps[1].captured and torch.equal(*map(everything, steps))
