"""What test_shared_batch.py starts: four processes, and two pairs of them, take the steps that one process takes."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from comparing import objective_of, stirred
from torch import nn

from atlas_fast import evaluate, models, objectives
from atlas_fast.data import CropFlip
from atlas_fast.engine import AutogradView, FreeStep, Ranks, TrainingStep, YopoStep, convolution
from atlas_fast.training import launch

sys.path.insert(0, str(Path(__file__).parents[1]))
import forked  # noqa: E402

N, CLASSES = 8, 5


class Residual(nn.Module):
    """A small network with BatchNorm alone, with the ReLU after it, and with the sum before it. Each message takes a
    millisecond and more where four processes share a core, so that it has few layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
        self.first, self.second, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.first(self.one(x))
        return self.three(self.last(x + self.two(self.second(x).relu())).relu().mean((2, 3)))


class Mixed(nn.Module):
    """BatchNorm of one to three dimensions, without weights, without running statistics, with a cumulative average."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv3d(2, 3, (2, 3, 3))
        self.two, self.three = nn.BatchNorm2d(4, affine=False), nn.BatchNorm3d(3, momentum=None)
        self.line, self.fc, self.one = nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        x = self.two(self.first(x)).tanh()
        x = self.three(self.second(x.unflatten(1, (2, 2)))).mean((2, 4))
        return self.one(self.fc(self.line(x).mean(2)))


def residual():
    return stirred(Residual())


def wide_resnet():
    return stirred(models.wide_resnet(10, 1, CLASSES, normalize=((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))))


def without_running_statistics():
    model = residual()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return model


def cases() -> dict[str, tuple]:
    """{name: (kind of step, network, objective, options)}"""
    both = [(method, engine) for method in objectives.PRESETS for engine in ("sweeps", "autograd")]
    found = {f"{method}, {engine}": (TrainingStep, residual, objective_of(method), {"engine": engine})
             for method, engine in both}
    atlas, adv = objective_of("atlas", num_projections=2), objective_of("adv")
    found |= {f"atlas, {engine}, eval": (TrainingStep, residual, atlas, {"engine": engine, "bn_mode": "eval"})
              for engine in ("sweeps", "autograd")}
    found["pair"] = TrainingStep, residual, atlas, {"engine": "sweeps", "pair": "on", "augment": CropFlip(1)}
    found["nuat, two steps"] = TrainingStep, residual, objective_of("nuat", steps=2), {}
    found["no running statistics"] = TrainingStep, without_running_statistics, atlas, {"engine": "sweeps"}
    found["other layers"] = TrainingStep, lambda: stirred(Mixed()), atlas, {"engine": "autograd"}
    found["perturbed weights"] = TrainingStep, residual, adv, {"awp": 0.01, "ema": 0.5}
    found["free"] = FreeStep, residual, adv, {"replays": 2}
    found["yopo"] = YopoStep, residual, objective_of("adv", steps=2), {"passes": 2}
    found["wide_resnet"] = TrainingStep, wide_resnet, objective_of("atlas"), {}
    return found


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (N, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return x, torch.randint(CLASSES, (N,), generator=generator)


def taken(case: tuple, ranks: Ranks, sync_bn: str = "on") -> dict[str, torch.Tensor]:
    """Gradients, terms and buffers of a step."""
    kind, make, objective, options = case
    torch.manual_seed(0)
    model = make()
    step = kind(model, objective, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), seed=5, ranks=ranks,
                sync_bn=sync_bn, **options)
    x, y = (ranks.part(t) for t in batch())
    terms = step(x if "augment" in options else x.double() / 255, y)
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**gradients, **ranks.average_terms(terms), **dict(model.named_buffers())}


def assert_close(found: dict, expected: dict, what: str) -> None:
    assert found.keys() == expected.keys(), what
    largest = max(value.norm() for name, value in expected.items() if name.startswith("gradient"))
    for name, value in expected.items():
        # A bias before BatchNorm has a zero gradient, of which only rounding is left.
        scale = max(value.double().norm(), 1e-6 * largest if name.startswith("gradient") else 1e-3)
        error = (found[name] - value).double().norm() / scale
        assert error < 1e-9, f"{what}, {name}: {error}"


def work() -> None:
    with launch.launched() as four:
        pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        two = Ranks.of_group(pairs[four.rank // 2])
        assert (four.size, two.size, two.rank) == (4, 2, four.rank % 2)
        every = cases()
        mine = four.share_out(range(len(every)))
        one = four.exchange({i: taken(list(every.values())[i], Ranks.alone()) for i in mine})
        for i, ((name, case), expected) in enumerate(zip(every.items(), one.values(), strict=True)):
            if i % 2 == four.rank // 2 or name == "wide_resnet":  # the pairs share the cases
                assert_close(taken(case, two), expected, f"{name}, two")
            found = taken(case, four)
            assert_close(found, expected, f"{name}, four")
            everywhere(found, four, name)
        apart(every["atlas, sweeps"], one[list(every).index("atlas, sweeps")], two)
        differentiable(four)
        convolutions_stay_ordinary(two)
        evaluated(four)


def everywhere(found: dict, ranks: Ranks, what: str) -> None:
    """Gradients and statistics are the same bits in all processes."""
    whole = torch.cat([value.double().flatten() for value in found.values()])
    assert all(torch.equal(row, whole) for row in ranks.gather(whole[None])), what


def apart(case: tuple, expected: dict, ranks: Ranks) -> None:
    """Without sync_bn each part has its own statistics, so the above would fail."""
    found = taken(case, ranks, "off")
    name = next(name for name in expected if name.startswith("gradient"))
    assert (found[name] - expected[name]).norm() > 1e-3 * expected[name].norm()


def differentiable(ranks: Ranks) -> None:
    """d/dx and d^2/dx^2 of what all processes make of sums and of all rows, against one process with all of them."""
    generator = torch.Generator().manual_seed(1)
    whole = torch.rand(8, 3, dtype=torch.float64, generator=generator)

    def value(rows, ranks):
        total = ranks.total(rows.square().sum(0))
        return (total.log() * total).sum() / ranks.size + ranks.gather(rows).prod(1).sin().sum() / ranks.size

    def twice(x, ranks):
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(value(x, ranks), x, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(3).sum(), x)
        return torch.stack([first.detach(), second], 1)

    torch.testing.assert_close(ranks.gather(twice(ranks.part(whole), ranks)), twice(whole, Ranks.alone()), rtol=1e-12,
                               atol=1e-12)


def convolutions_stay_ordinary(ranks: Ranks) -> None:
    """The function mode of the one does not turn off that of the other."""
    x, _ = batch()
    view = AutogradView(residual(), ranks=ranks)
    tape = view.forward({"x": ranks.part(x).double() / 255}, wrt=("x",))
    assert not convolution.stock_backward(tape._outputs["x"], torch.float64)


def evaluated(ranks: Ranks) -> None:
    """All processes get the report of one; without `ranks` the call concerns nobody else, so that one may make it."""
    torch.manual_seed(0)
    model, (x, y) = residual().float().eval(), batch()
    options = {"attacks": ["pgd-3-2"], "eps": 0.1, "batch_size": 3}
    alone = evaluate(model, x, y, **options) if ranks.leads else None
    shared = evaluate(model, x, y, **options, ranks=ranks)
    alone = ranks.exchange({0: alone} if ranks.leads else {})[0]
    for report in (alone, shared):
        report["attacks"]["pgd-3-2"].pop("seconds")
    assert shared == alone and shared["n"] == N


if __name__ == "__main__":
    torch.set_num_threads(1)
    taken(cases()["plain, sweeps"], Ranks.alone())  # imports what is imported late, once for all
    statuses = forked.run(work, 4)
    sys.exit(f"exit statuses {statuses}" if any(statuses) else 0)
