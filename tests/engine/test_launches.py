"""How many kernels a captured step runs on a GPU, counted without one: shapes alone flow through the real decisions.

Fake tensors say that they lie on a CUDA device. Every operator that computes counts as a launch, a convolution's
backward as one for each gradient asked, the package's own operations as they declare.
"""

import math
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_fast import models, objectives
from atlas_fast.data.augment import CropFlip
from atlas_fast.engine import Ranks, TrainingStep
from atlas_fast.ops._registry import LAUNCHES, triton_available

aten = torch.ops.aten
NOTHING = {"prim", "prims", "profiler"}
FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.promote_types,
        aten.detach, aten.alias, aten.lift_fresh, aten._unsafe_view, aten._reshape_alias}
CHUNK, CHUNKS, TENSORS = 65536, 320, 110  # elements, blocks and tensors of one multi-tensor launch in PyTorch


class Launches(TorchDispatchMode):
    """Counts launches by operator. cuDNN keeps channels-last; without a GPU the fake convolution does not know that."""

    def __init__(self):
        super().__init__()
        self.by_operator = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        count = launches(function, args, kwargs or {})
        if count:
            self.by_operator[str(function)] += count
        if function._overloadpacket is aten._fused_sgd_:  # has no fake; changes what it is given
            return None
        result = function(*args, **(kwargs or {}))
        return channels_last(result) if function._overloadpacket in (aten.convolution, aten.convolution_backward) \
            else result

    @property
    def total(self) -> int:
        return sum(self.by_operator.values())


def channels_last(result):
    if isinstance(result, (tuple, list)):
        return tuple(map(channels_last, result))
    four = isinstance(result, torch.Tensor) and result.dim() == 4
    return result.contiguous(memory_format=torch.channels_last) if four else result


def launches(function, args, kwargs) -> int:
    packet = function._overloadpacket
    if function.namespace == "atlas_fast":
        return LAUNCHES[function.name().split("::")[1]]
    if function.namespace in NOTHING or packet in FREE or function.is_view:
        return 0
    if packet is aten.convolution_backward:
        return sum(args[-1])
    if function.name().startswith("aten::_f"):  # foreach and fused: many tensors a launch
        tensors = args[0]
        return max(math.ceil(sum(math.ceil(t.numel() / CHUNK) for t in tensors) / CHUNKS),
                   math.ceil(len(tensors) / TENSORS))
    return 1


def count(method="atlas", model="wrn-28-8", batch=64, shared=None, **changes):
    """Launches of the second step; the first one creates state. shared: the processes that share statistics."""
    keywords = {"eps": 8 / 255, "alpha": 2e-4, "beta": 5.0, "steps": 1, **changes}
    keywords = {k: v for k, v in keywords.items() if k in objectives.parameters(method)}
    with FakeTensorMode(allow_non_fake_inputs=True), Launches() as counted:
        with torch.device("cuda"):
            net = models.create(model, 10, 3, 32).train()
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
                module.weight = torch.nn.Parameter(weight)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4, fused=True)
        step = TrainingStep(net, objectives.create(method, **keywords), optimizer, amp="bf16", augment=CropFlip(),
                            capture="off", ranks=shared, sync_bn="off" if shared is None else "on")
        assert step.engine == "sweeps" and step.view.paired
        x = torch.empty(batch, 3, 32, 32, dtype=torch.uint8, device="cuda")
        y = torch.empty(batch, dtype=torch.int64, device="cuda")
        step(x, y)
        counted.by_operator.clear()
        step(x, y)
    print(f"{method} {model}: {counted.total}", dict(counted.by_operator.most_common()))
    return counted


needs_triton = pytest.mark.skipif(not triton_available(), reason="the fused BatchNorm needs Triton")


@needs_triton
def test_one_step_atlas_on_wide_resnet_28_8():
    counted = count()
    assert counted.total <= 750
    assert not any("batch_norm" in name for name in counted.by_operator)
    convolutions = counted.by_operator["aten.convolution.default"]
    assert convolutions == 3 * 28  # of x0, of x' and x together, and the tangent


@needs_triton
def test_methods_with_less_work_launch_less():
    totals = [count(method, "wrn-10-2").total for method in ("plain", "adv", "atlas_g", "atlas")]
    assert totals == sorted(totals) and totals[-1] > 2 * totals[0]


@needs_triton
def test_shared_statistics_by_the_same_kernels():
    """Of two processes, of which one is made up: a message for each pass of each layer, and little besides."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        shared, alone = count(model="wrn-10-2", shared=Ranks.of_group()), count(model="wrn-10-2")
    finally:
        torch.distributed.destroy_process_group()
    messages = sum(number for name, number in shared.by_operator.items() if name.startswith("c10d"))
    layers = 7
    assert messages == layers * (2 + 3 + 1) + 1  # forward: x0, the pair; back: those, and v; tangent; .grad
    large = ("aten.where.self", "aten.var_mean.correction", "aten.batch_norm_elemt.default")
    assert shared.total <= 2.5 * alone.total and not any(shared.by_operator[name] for name in large)
