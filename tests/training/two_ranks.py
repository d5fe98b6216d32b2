"""What test_distributed.py starts twice: `steps NPZ`, or `die EPOCH OPTIONS...`, a trainer that dies."""

import os
import signal
import sys

import pytest
import torch
from torch import nn
from two_ranks_stopped import stopped

from atlas_fast import objectives, train
from atlas_fast.attacks import PGD
from atlas_fast.data import Batches, CropFlip
from atlas_fast.engine import FreeStep, Ranks, TrainingStep, YopoStep
from atlas_fast.errors import UserError, run_cli
from atlas_fast.training import launch, loop, setup, validation
from atlas_fast.training.config import resolve
from atlas_fast.training.progress import Progress

ATLAS = dict(eps=0.1, alpha=0.3, beta=0.7, steps=1)
CASES = {
    "sweeps": (TrainingStep, "atlas", ATLAS, {"engine": "sweeps"}),
    "autograd": (TrainingStep, "atlas", ATLAS, {"engine": "autograd"}),
    "several steps, two projections": (TrainingStep, "atlas", {**ATLAS, "steps": 3, "num_projections": 2}, {}),
    "in parts": (TrainingStep, "atlas", ATLAS, {"accumulate": 2, "awp": 0.01}),
    "augmented": (TrainingStep, "trades", dict(eps=0.1, beta=1.0, steps=1), {"augment": CropFlip(1)}),
    "noise": (TrainingStep, "n_fgsm", dict(eps=0.1, noise=2.0), {}),
    "perturbed weights": (TrainingStep, "adv", dict(eps=0.1, steps=2), {"awp": 0.01, "ema": 0.5}),
    "yopo": (YopoStep, "adv", dict(eps=0.1, steps=2), {"passes": 2}),
    "free": (FreeStep, "adv", dict(eps=0.1, steps=1), {"replays": 2}),
}


def steps(npz: str) -> None:
    """Everything that two processes must do as one would."""
    with launch.launched() as ranks:
        assert ranks.size == 2 and ranks.leads == (ranks.rank == 0) == (os.environ["RANK"] == "0")
        for name in CASES:
            same_as_one(name, ranks)
        unusable_everywhere(ranks)
        messages(ranks)
        batches(ranks)
        validated(ranks)
        normalised(ranks, npz)
        refused(ranks, npz)
        stopped(ranks, npz)


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
                         nn.Linear(36, 5)).double()


def batch(i: int, augmented: bool) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(i)
    x = torch.randint(256, (8, 1, 6, 6), generator=g, dtype=torch.uint8)
    return x if augmented else x.double() / 255, torch.randint(5, (8,), generator=g)


def trained(name: str, ranks: Ranks, count: int = 3):
    """The step, its network and the mean of its terms after `count` global batches."""
    kind, preset, keywords, options = CASES[name]
    model = net()
    step = kind(model, objectives.create(preset, **keywords), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
                seed=5, ranks=ranks, **options)
    for i in range(count):
        x, y = (ranks.part(t) for t in batch(i, "augment" in options))
        terms = step(x, y)
    return step, model, ranks.average_terms(terms)


def same_as_one(name: str, ranks: Ranks) -> None:
    whole, model, terms = trained(name, Ranks.alone())
    step, part, part_terms = trained(name, ranks)
    for a, b in zip(model.parameters(), part.parameters(), strict=True):
        assert_close(b.grad, a.grad, name)
        assert_close(b, a, name)
    for key, value in terms.items():
        assert_close(part_terms[key], value, f"{name}: {key}")
    if whole.averaged is not None:
        for a, b in zip(whole.averaged.parameters(), step.averaged.parameters(), strict=True):
            assert_close(b, a, name)
    other = trained(name, Ranks(ranks.rank, 2))[1]  # nothing is exchanged
    assert (other[0].weight - model[0].weight).abs().max() > 1e-5, f"{name}: a part alone gives the same"
    if isinstance(step, FreeStep):
        whole_state, state = whole.state_dict(), step.state_dict()
        assert_close(state["delta"], whole_state["delta"], name)
        step.load_state_dict(whole_state)
        assert torch.equal(step.delta, ranks.part(whole.delta))


def assert_close(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    a, b = a.detach(), b.detach()
    error = float((a - b).abs().max() / b.abs().max().clamp_min(1e-3))
    assert error < 1e-9, f"{what}: {error}"


class Scaled(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.linear, self.scale = nn.Linear(36, 5), scale

    def forward(self, x):
        return self.linear(x.flatten(1)) * self.scale


def unusable_everywhere(ranks: Ranks) -> None:
    """A gradient that is not finite on one process is skipped by both."""
    torch.manual_seed(0)
    model = Scaled(float("nan") if ranks.rank == 1 else 1.0)
    before = model.linear.weight.detach().clone()
    step = TrainingStep(model, objectives.jac(alpha=0.5), torch.optim.SGD(model.parameters(), 0.1), engine="autograd",
                        ranks=ranks)
    x, y = batch(0, False)
    step(ranks.part(x).float(), ranks.part(y))
    assert step.skipped == 1 and torch.equal(model.linear.weight, before)
    model.scale = 1.0
    step(ranks.part(x).float(), ranks.part(y))
    assert step.skipped == 1 and not torch.equal(model.linear.weight, before)
    assert torch.equal(ranks.gather(model.linear.weight[None])[0], model.linear.weight.detach())


def messages(ranks: Ranks) -> None:
    mine = torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last) + ranks.rank
    assert torch.equal(ranks.average_terms({"a": mine[0, 0, 0, 0]})["a"], torch.tensor(0.5))
    gathered = ranks.gather(mine)
    assert gathered.shape == (4, 3, 2, 2) and torch.equal(ranks.part(gathered), mine)
    count = torch.tensor(7 + ranks.rank)
    ranks.follow_first([mine, count])
    assert mine[1, 2, 1, 1] == 23 and count == 7 and mine.is_contiguous(memory_format=torch.channels_last)


def batches(ranks: Ranks) -> None:
    images, labels = torch.arange(20.0).view(20, 1, 1, 1), torch.arange(20)
    one = Batches(images, labels, 6, 1, torch.device("cpu"))
    mine = Batches(images, labels, 6, 1, torch.device("cpu"), part=(ranks.rank, 2))
    for (x, y), (part, part_y) in zip(one.epoch(2), mine.epoch(2), strict=True):
        assert torch.equal(ranks.part(x), part) and torch.equal(ranks.gather(part_y), y)


def validated(ranks: Ranks) -> None:
    """The same figures to the last bit, batches dealt unevenly."""
    validation.BATCH = 7
    model, attack, (x, _), cpu = net().float(), PGD(0.1, 0.03, 3), batch(1, True), torch.device("cpu")
    images = x.repeat(4, 1, 1, 1)[:30]
    labels = torch.arange(30) % 5
    one = validation.measure(model, images, labels, attack, cpu)
    assert validation.measure(model, images, labels, attack, cpu, ranks=ranks) == one and one["jacobian_norm"] > 0


def normalised(ranks: Ranks, npz: str) -> None:
    """BatchNorm's running statistics part within an epoch and are those of the first process after it; with --sync-bn
    they never part."""
    settings = {"dataset": "npz", "data_dir": npz, "model": "wrn-10-1", "device": "cpu", "batch_size": 8, "eps": 0.1,
                "alpha": 0.01, "beta": 0.5, "epochs": 2, "max_batches": 1, "ema": 0.9}
    config = resolve(settings)
    run = setup.prepare(config, ranks=ranks)
    means = [b for name, b in run.model.named_buffers() if name.endswith("running_mean")]
    loop.one_epoch(run, Progress(1, shown=False))
    assert means and means[0].any()
    for tensor in (*run.model.state_dict().values(), *run.network.state_dict().values()):
        first, second = ranks.gather(tensor[None])
        assert torch.equal(first, second)
    loop.steps(run, 2, Progress(1, shown=False))
    first, second = ranks.gather(means[0][None])
    assert not torch.equal(first, second)
    run = setup.prepare(resolve({**settings, "sync_bn": "on"}), ranks=ranks)
    loop.steps(run, 1, Progress(1, shown=False))
    for name, tensor in run.model.state_dict().items():
        first, second = ranks.gather(tensor[None])
        assert torch.equal(first, second), name


def refused(ranks: Ranks, npz: str) -> None:
    model, out = net(), f"{npz}.refused"
    with pytest.raises(UserError, match="2 processes cannot share a batch of 31 equally"):
        train.train(["--dataset", "npz", "--data-dir", npz, "--model", "small_cnn", "--device", "cpu", "--batch-size",
                     "31", "--epsilon", "0.1", "--alpha", "0", "--beta", "0", "--out", out], ranks)
    assert not os.path.exists(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_WORLD_SIZE", "2")
        for gpus, device, why in ((2, "cuda:0", "give --device cuda"), (1, "cuda", "2 processes need as many GPUs")):
            patch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
            with pytest.raises(UserError, match=why):
                launch.check_device(device, ranks)
    with pytest.raises(UserError, match="takes_sample_offset"):
        TrainingStep(model, objectives.jac(alpha=0.5), torch.optim.SGD(model.parameters(), 0.1), ranks=ranks,
                     augment=lambda x, rng: x)


def die_in_epoch(number: int) -> None:
    """Process 1 is killed before the first step of that epoch, if nothing was restarted yet."""
    begin = TrainingStep.__call__

    def step(self, x, y):
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if first and os.environ["RANK"] == "1" and step.epoch == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(self, x, y)

    one_epoch = loop.one_epoch

    def counted(run, *rest):
        step.epoch = run.schedule.epoch + 1
        return one_epoch(run, *rest)

    TrainingStep.__call__, loop.one_epoch = step, counted


if __name__ == "__main__":
    if sys.argv.pop(1) == "steps":
        steps(sys.argv[1])
    else:
        die_in_epoch(int(sys.argv.pop(1)))
        run_cli(train.main)
