"""Processes that share a batch take the step of one: gradients, terms and statistics, float64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from comparing import atlas, family, gradients
from torch import nn
from torch.utils.checkpoint import checkpoint

from atlas_fast.engine import AutogradView, Ranks, SweepView, TrainingStep
from atlas_fast.errors import UserError

HERE = Path(__file__).parent
HALF = Ranks(0, 2)  # without a group nothing is exchanged: this process's part counts alone


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_two_and_four_processes_take_the_step_of_one():
    path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, str(HERE / "four_ranks.py")], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr


class Odd(nn.Module):
    """A network whose BatchNorm runs in some way of its own."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.bn, self.fc, self.way = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 5), way

    def forward(self, x):
        return self.fc(self.way(self.bn, self.conv(x)).mean((2, 3)))


WAYS = {
    "checkpoint": lambda bn, x: checkpoint(bn, x, use_reentrant=False),
    "reentrant checkpoint": lambda bn, x: checkpoint(bn, x, use_reentrant=True),
    "not by torch.nn.functional": lambda bn, x: torch.batch_norm(x, bn.weight, bn.bias, None, None, True, 0.1, 1e-5,
                                                                 False),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_norm_out_of_reach_is_refused(way):
    x = torch.rand(2, 3, 6, 6)
    with pytest.raises(UserError, match="sync_bn='on' does not reach"):
        AutogradView(Odd(WAYS[way]), ranks=HALF).forward({"x": x})


def test_running_statistics_need_no_messages():
    """In eval mode the views with and without processes do the same."""
    model, x, y = family("wide_resnet")
    model.eval()
    for kind in (AutogradView, SweepView):
        found = []
        for ranks in (None, HALF):
            model.zero_grad()
            _, own, _ = gradients(kind(model, ranks=ranks), atlas(), x, y)
            found.append({name: g.clone() for name, g in own.items()})
        assert all(torch.equal(found[0][name], g) for name, g in found[1].items())


def test_bfloat16_shares_float32_statistics():
    """Of a batch in two equal halves, each half gives what the whole one does."""
    model, x, y = family("wide_resnet")
    model, x = model.float(), x.float()
    x[2:], y[2:] = x[:2], y[:2]

    class Doubled(Ranks):
        """Two processes with the same part."""

        def gather(self, rows):
            return torch.cat([rows, rows])

        def total(self, tensor):
            return 2 * tensor

    for kind in (AutogradView, SweepView):
        logits = [kind(model, amp=torch.bfloat16, ranks=ranks).forward({"x": images}).logits["x"]
                  for ranks, images in ((None, x), (Doubled(0, 2), x[:2]))]
        torch.testing.assert_close(logits[1], logits[0][:2], rtol=2e-2, atol=2e-2)


def test_wrong_use_and_one_process():
    model, x, y = family("wide_resnet")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(UserError, match="sync_bn must be one of on, off, got True"):
        TrainingStep(model, atlas(), optimizer, sync_bn=True)
    for engine in ("sweeps", "autograd"):
        step = TrainingStep(model, atlas(), optimizer, engine, sync_bn="on")
        assert step.view._ranks is None  # alone: the fused statistics of this process
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        AutogradView(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)), ranks=Ranks(0, 1)).forward(
            {"x": torch.rand(1, 1, 2, 2)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not dist.is_nccl_available(), reason="needs NCCL and a GPU")
@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
def test_messages_are_part_of_a_cuda_graph(engine, tmp_path):
    """In a group of one process the messages change nothing."""
    dist.init_process_group("nccl", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        found = []
        for ranks in (None, Ranks.of_group()):
            model, x, y = family("wide_resnet")
            model, x = (v.float().to("cuda", memory_format=torch.channels_last) for v in (model, x))
            optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
            step = TrainingStep(model, atlas(eps=1e-6), optimizer, engine, amp="off", capture="on")
            step.view = type(step.view)(model, ranks=ranks)
            for _ in range(6):
                step(x, y.cuda())
            assert step.captured and step.capture_reason is None
            found.append(torch.cat([v.flatten() for v in model.state_dict().values() if v.is_floating_point()]))
        assert (found[0] - found[1]).norm() < 1e-3 * found[0].norm()
    finally:
        dist.destroy_process_group()
