"""x' and x as one batch: gradients, losses and running statistics are those of two passes."""

import pytest
import torch
from comparing import FAMILIES, assert_same, atlas, family, images, objective_of, stirred
from torch import nn

from atlas_fast import models, objectives
from atlas_fast.engine import SweepView, TrainingStep
from atlas_fast.errors import UserError


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", list(objectives.PRESETS))
def test_every_preset(method, name):
    model, x, y = family(name)
    assert SweepView(model, pair=True).paired
    assert_same(model, objective_of(method), x, y, pair=True)


@pytest.mark.parametrize("method", ["atlas", "tradesjac"])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
@pytest.mark.parametrize("training", [True, False])
def test_modes_of_batch_norm_and_several_projections(training, bn_mode, method):
    model, x, y = family("wide_resnet")
    model.train(training)
    assert_same(model, objective_of(method, num_projections=2), x, y, bn_mode, pair=True)


def test_a_resnet_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    block = torchvision.models.resnet.BasicBlock
    model = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=5, width_per_group=64)
    assert_same(stirred(model), atlas(), *images(3, 32, 2), pair=True, rtol=1e-8)


def test_both_points_take_one_pass():
    model, x, _ = family("wide_resnet")
    counter, tape = model.bn.num_batches_tracked, SweepView(model, pair=True).forward({"adv": x, "x": x})
    assert counter.item() == 2
    assert len({id(sweeps) for sweeps, _ in tape._places.values()}) == 1
    apart = SweepView(model, pair=True).forward({"adv": x, "x": x[:3]})
    assert len({id(sweeps) for sweeps, _ in apart._places.values()}) == 2


class Headed(nn.Module):
    """A convolution, and a head that works on [N, 4, 8, 8]."""

    def __init__(self, head, features=4):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(features, 5)
        self.register_buffer("noise", torch.linspace(-1, 1, 4).view(4, 1, 1, 1))
        self.register_buffer("scale", torch.tensor([0.5, 1.0, 1.5, 2.0]).view(4, 1, 1))
        self.head = head

    def forward(self, x):
        return self.fc(self.head(self, self.bn(self.conv(x)).relu()))


TOGETHER = {
    "mean": lambda m, x: x.mean((2, 3)),
    "view by the batch size": lambda m, x: x.mean((2, 3), keepdim=True).view(x.size(0), -1),
    "reshape by shape": lambda m, x: x.mean((2, 3), keepdim=True).reshape(x.shape[0], 4),
    "flatten": lambda m, x: x.mean((2, 3), keepdim=True).flatten(1),
    "a buffer for channels": lambda m, x: (x * m.scale).mean((2, 3)),
}
APART = {
    "mean of negative dimensions": lambda m, x: x.mean((-1, -2)),
    "a buffer for samples": lambda m, x: (x + m.noise).mean((2, 3)),
    "a number from the batch size": lambda m, x: (x / x.size(0)).mean((2, 3)),
    "mean of the batch": lambda m, x: x.mean((2, 3)).reshape(2, 2, 4).mean(0).reshape(2, 4),
    "reshape to other sizes": lambda m, x: x.mean((2, 3)).reshape(1, -1).reshape(4, 4),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_heads_that_keep_samples_apart(name):
    torch.manual_seed(0)
    model = stirred(Headed(TOGETHER[name]))
    assert SweepView(model, pair=True).paired
    assert_same(model, atlas(), *images(), pair=True)


@pytest.mark.parametrize("name", APART)
def test_heads_that_may_mix_samples_run_apart(name):
    torch.manual_seed(0)
    model = stirred(Headed(APART[name]))
    view = SweepView(model, pair=True)
    assert not view.paired and view.inseparable
    with pytest.raises(UserError, match="pair='on' is impossible, since .* may mix samples"):
        TrainingStep(model, atlas(), torch.optim.SGD(model.parameters(), lr=0.1), pair="on")
    if name != "mean of the batch":
        assert_same(model, atlas(), *images(), pair=True)


def test_a_cumulative_average_runs_apart():
    model, x, y = family("wide_resnet")
    model.bn.momentum = None
    assert not SweepView(model, pair=True).paired
    assert_same(model, atlas(), x, y, pair=True)


def test_training_steps_agree():
    results = []
    for pair in ("off", "on"):
        model, x, y = family("wide_resnet")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = TrainingStep(model, atlas(), optimizer, pair=pair, seed=5)
        losses = [step(x, y)["loss"].item() for _ in range(3)]
        results.append((losses, torch.cat([v.double().flatten() for v in model.state_dict().values()])))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-10)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-9, atol=1e-12)


def test_other_engines_and_values_are_refused():
    model = models.small_cnn(5, 1, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="pair='on' needs the sweeps"):
        TrainingStep(model, atlas(), optimizer, engine="autograd", pair="on")
    with pytest.raises(UserError, match="pair must be one of auto, on, off"):
        TrainingStep(model, atlas(), optimizer, pair="maybe")
