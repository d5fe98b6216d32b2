"""What a CUDA graph would record, without a GPU: shapes alone flow through the real decisions.

A step that is recorded must not ask the device for a value, nor bring one from the host. PyTorch says where a value of
a tensor without data is asked for, the mode below where a tensor of the host takes part. Tensors on `meta` show that
for everything that does not depend on the device. Fake tensors that say that they lie on a CUDA device (as in
test_launches) take the decisions of one too, but PyTorch's backward passes refuse them.
"""

from unittest import mock

import pytest
import torch
from comparing import objective_of
from test_launches import Launches
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from atlas_fast import models, objectives
from atlas_fast.attacks import directions, losses
from atlas_fast.data.augment import CropFlip
from atlas_fast.engine import FreeStep, Ranks, TrainingStep
from atlas_fast.engine.inference import SweepPasses
from atlas_fast.ops._registry import triton_available

aten = torch.ops.aten
BY_AUTOGRAD = ("mart", "nuat")  # their losses are differentiated by PyTorch


class OnTheDevice(Launches):
    """Inside, no operator may see a tensor of the host; on CUDA convolutions must find all in channels-last."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(function, types, args, kwargs)
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, result))
        tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
        assert all(t.device.type != "cpu" for t in tensors), f"{function} with a tensor of the host"
        if function._overloadpacket in (aten.convolution, aten.convolution_backward) and tensors[0].is_cuda:
            for t in args[:3]:
                last = t is None or t.dim() != 4 or t.is_contiguous(memory_format=torch.channels_last)
                assert last, f"{function} converts the layout of {list(t.shape)}"
        return result

    def __enter__(self):
        self.patch = mock.patch.object(torch, "tensor", self.refused)  # what it copies is seen by no mode
        self.patch.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.__exit__(*error)
        return super().__exit__(*error)

    def refused(self, *args, **kwargs):
        raise AssertionError("torch.tensor brings values with a tensor of the host")


class Residual(nn.Module):
    """As much of a network as decisions depend on: sums before a BatchNorm and at the end of a block, a shortcut."""

    def __init__(self):
        super().__init__()
        self.conv, self.conv1 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.conv2, self.shortcut = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.Conv2d(8, 16, 1, 2, bias=False)
        self.bn, self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.conv(x)
        x = self.bn1(x + self.conv1(self.bn(x).relu())).relu()
        return self.fc((self.shortcut(x) + self.bn2(self.conv2(x))).relu().mean((2, 3)))


def network(name, device):
    """In training mode, channels-last."""
    make = {"residual": Residual, "small_cnn": lambda: models.small_cnn(5, 1, 8),
            "wide_resnet": lambda: models.wide_resnet(10, 1, 5), "preact_resnet18": lambda: models.preact_resnet18(5)}
    with torch.device(device):
        model = make[name]().train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            module.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    return model


def recorded(method, name, device, kind=TrainingStep, local=None, **options):
    """A step that looks only at the device, or AssertionError."""
    model = network(name, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=device == "cuda")
    objective = objective_of(method, **({"steps": 2} if method == "fat" else {})).replace(local=local)
    step = kind(model, objective, optimizer, **{"augment": CropFlip(), "capture": "off", **options})
    x = torch.empty(4, 1 if name == "small_cnn" else 3, 8, 8, dtype=torch.uint8, device=device)
    y = torch.empty(4, dtype=torch.int64, device=device)
    # On CUDA the first step creates what later ones keep.
    for mode in (OnTheDevice(),) if device == "meta" else (Launches(), OnTheDevice()):
        with mode:
            step._update.before()
            step.view.flat = step._update.flat
            if device == "cuda":
                step._whole(step._images(x), y)
            else:  # where no optimiser is fused
                step._gradients(step._images(x), y)
                step._update.share()
                unusable = step._update.flat.not_finite()
                step._update._statistics.restore_if(unusable)
                if step._average is not None:
                    step._average.follow(unusable)
    return step


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
@pytest.mark.parametrize("method", list(objectives.PRESETS))
def test_every_preset(method, engine):
    assert recorded(method, "residual", "meta", engine=engine).engine == engine


OPTIONS = {
    "pair": {"pair": "on"}, "accumulate": {"accumulate": 2}, "bn_mode": {"bn_mode": "eval"}, "bf16": {"amp": "bf16"},
    "checkpoints": {"checkpoint_activations": True}, "awp": {"awp": 0.01}, "ema": {"ema": 0.9},
    "fp16": {"amp": "fp16", "ema": 0.9, "awp": 0.01},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(option):
    recorded("atlas", "residual", "meta", **OPTIONS[option])


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
def test_several_processes(engine):
    """Of two processes, of which one is made up: its messages change nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        recorded("atlas", "residual", "meta", engine=engine, ranks=Ranks.of_group(), sync_bn="on")
    finally:
        torch.distributed.destroy_process_group()


def test_a_tensor_of_the_host_is_noticed():
    def local(logits, x, y):
        return (logits * torch.tensor([0.5], device=logits.device)).square().mean()

    with pytest.raises(AssertionError, match="with a tensor of the host"):
        recorded("atlas", "residual", "meta", local=local)


@pytest.mark.parametrize("cotangent", [
    lambda z, y: directions.ascend_ce(z, y), lambda z, y: directions.ascend_margin(z, y),
    lambda z, y: losses.ce(z, y)[1], lambda z, y: losses.dlr(z, y)[1], lambda z, y: losses.targeted_dlr(z, y, y)[1]])
def test_passes_of_attacks(cotangent):
    """The passes are recorded; what lies between them is not, but runs in every step."""
    passes, x = SweepPasses(network("residual", "meta").eval()), torch.empty(4, 3, 8, 8, device="meta")
    y = torch.empty(4, dtype=torch.int64, device="meta")
    with OnTheDevice():
        logits, backward = passes.forward(x)
        assert backward(cotangent(logits, y)).shape == x.shape and passes.logits(x).shape == (4, 5)


@pytest.mark.skipif(not triton_available(), reason="the fused BatchNorm needs Triton")
@pytest.mark.parametrize(("name", "kind", "options"), [
    ("residual", TrainingStep, {"pair": "on"}), ("residual", TrainingStep, {"pair": "off", "awp": 0.01}),
    ("residual", TrainingStep, {"amp": "fp16", "accumulate": 2}), ("residual", FreeStep, {"replays": 2}),
    ("small_cnn", TrainingStep, {}), ("wide_resnet", TrainingStep, {}), ("preact_resnet18", TrainingStep, {})])
def test_on_a_device_nothing_changes_its_layout(name, kind, options):
    with FakeTensorMode(allow_non_fake_inputs=True):
        recorded("adv" if kind is FreeStep else "atlas", name, "cuda", kind, **{"amp": "bf16", **options})
