"""Weight gradients on a second stream: nothing that they read is written to before they are joined."""

import pytest
import torch
from comparing import FAMILIES, assert_same, atlas, family, objective_of

from atlas_fast import models, objectives
from atlas_fast.engine import TrainingStep
from atlas_fast.errors import UserError


class Last:
    """As late as a second stream may run: everything at the join."""

    def __init__(self):
        self.waiting = []

    def run(self, function, *tensors):
        self.waiting.append((function, tensors))

    def join(self):
        for function, tensors in self.waiting:
            function(*tensors)
        self.waiting.clear()


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", list(objectives.PRESETS))
def test_late_weight_gradients(method, name, pair):
    model, x, y = family(name)
    assert_same(model, objective_of(method), x, y, pair=pair, beside=Last())


def test_several_projections_and_frozen_weights():
    model, x, y = family("wide_resnet")
    model.groups[0].conv1.weight.requires_grad_(False)
    assert_same(model, atlas(num_projections=2), x, y, beside=Last())


def test_where_there_is_none_it_is_refused():
    model = models.small_cnn(5, 1, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for keywords, message in (({}, "needs a CUDA device, and the model is on cpu"),
                              ({"engine": "autograd"}, "overlap='on' needs the sweeps")):
        with pytest.raises(UserError, match=message):
            TrainingStep(model, atlas(), optimizer, overlap="on", **keywords)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("capture", ["off", "on"])
def test_on_a_device(capture):
    torch.manual_seed(0)
    x, y = torch.rand(8, 3, 32, 32).cuda(), (torch.arange(8) % 5).cuda()
    losses = []
    for overlap in ("off", "on"):
        torch.manual_seed(1)
        model = models.wide_resnet(10, 2, 5).to("cuda", memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
        step = TrainingStep(model, atlas(eps=0.03, alpha=1e-4), optimizer, overlap=overlap, capture=capture)
        losses.append([step(x, y)["loss"].item() for _ in range(10)])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
