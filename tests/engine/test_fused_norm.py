"""The engine on the fused BatchNorm operations of CUDA devices in channels-last, here by their definitions."""

import pytest
import torch
from comparing import FAMILIES, assert_same, atlas, family, images, objective_of, stirred
from torch import nn

from atlas_fast import models, objectives
from atlas_fast.engine import Ranks
from atlas_fast.engine.rules import fused_norm, native_norm


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    def never(*args):
        raise AssertionError("PyTorch's kernels were called")

    monkeypatch.setattr(fused_norm, "applies", lambda a, b, module: b is None or a.shape == b.shape)
    monkeypatch.setattr(native_norm, "forward", never)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", list(objectives.PRESETS))
def test_every_preset(method, name, pair):
    assert_same(family(name)[0], objective_of(method), *family(name)[1:], pair=pair)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
@pytest.mark.parametrize("training", [True, False])
def test_modes_of_batch_norm_and_several_projections(training, bn_mode, pair):
    model, x, y = family("wide_resnet")
    model.train(training)
    assert_same(model, atlas(num_projections=2), x, y, bn_mode, pair=pair)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("frozen", [[], ["groups.1.bn1.weight", "groups.0"]])
def test_statistics_that_are_shared(pair, frozen):
    """With nobody, here: sums, then results from them, in calls of their own (tests/ops gives the sums of others)."""
    model, x, y = family("wide_resnet")
    for name, p in model.named_parameters():
        p.requires_grad_(not any(name.startswith(start) for start in frozen))
    assert_same(model, atlas(num_projections=2), x, y, pair=pair, ranks=Ranks.alone())


@pytest.mark.parametrize("frozen", ["conv", "groups.1.bn1", "groups.0.bn2.weight", "fc"])
def test_frozen_parameters(frozen):
    model, x, y = family("wide_resnet")
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(frozen))
    assert_same(model, atlas(), x, y)


def test_preact_resnet18_in_channels_last():
    torch.manual_seed(0)
    model = stirred(models.preact_resnet18(5)).to(memory_format=torch.channels_last)
    assert_same(model, atlas(), *images(size=16, count=3), pair=True, rtol=1e-8)


def test_without_weights_and_without_relu():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
                          nn.Flatten(), nn.Linear(64, 5))
    assert_same(stirred(model), atlas(), *images())
