"""What `bench.work` says a step needs, against what steps execute and against hand counts."""

import pytest
import torch
from torch import nn

import atlas_fast as af
from atlas_fast import objectives
from atlas_fast.engine.convolution_kernels import pytorchs
from bench import reference_step, work, workload

METHODS = [*objectives.PAPER, "adv-3", "trades-2", "atlas-2"]
STOCK = "weight gradient as a forward convolution"


def network():
    """Wide enough that no convolution takes a special path on a CPU; the first layer matters at this size."""
    torch.manual_seed(0)
    return af.models.create("wrn-10-2", 10, 3, 32).train()


SHAPE = (2, 3, 32, 32)
FIRST = 2 * 2 * 16 * 32 * 32 * 27  # operations of the first layer


def convolution_flops(run):
    with pytorchs(), work.ConvolutionFlops() as counter:
        run()
    return counter.flops


@pytest.mark.parametrize(("method", "expected"), [
    ("plain", 3), ("jac", 6), ("adv", 5), ("trades", 8), ("atlas", 11), ("atlas_l", 8), ("atlas_g", 8),
    ("tradesjac", 11), ("adv-10", 23), ("atlas-10", 29), ("trades-10", 26)])
def test_forward_equivalents(method, expected):
    assert work.passes(workload.workload(method).objective).total == expected


def test_two_projections_cost_three_more_and_a_weight_of_zero_nothing():
    assert work.passes(objectives.atlas(eps=0.1, alpha=1.0, beta=1.0, num_projections=2)).total == 14
    assert work.passes(objectives.atlas(eps=0.1, alpha=0.0, beta=1.0)).total == 8


def test_a_forward_pass_counted_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5))
    assert work.forward_flops(model, (2, 3, 8, 8)) == 2 * 2 * (4 * 16 * 27 + 5 * 64)


def test_wide_resnet_28_8():
    """3.36 GMAC an image is what the literature says of WRN-28-8; the traffic is 38 passes over the sites' activations
    and 24 over the residual sums'."""
    with torch.device("meta"):
        model = af.models.create("wrn-28-8", 10, 3, 32).train()
    assert work.forward_flops(model, (1, 3, 32, 32)) / 2e9 == pytest.approx(3.3601, abs=1e-4)
    assert sum(work.convolutions(model, (1, 3, 32, 32)).values()) == 28
    sites, sums = work.activations(model, (1, 3, 32, 32))
    assert sites == sum(n * p * p for n, p in [(16, 32), (128, 32)] + [(128, 32)] * 6 + [(128, 32), (256, 16)]
                        + [(256, 16)] * 6 + [(256, 16), (512, 8)] + [(512, 8)] * 6 + [(512, 8)])
    assert sums == 4 * (128 * 32 * 32 + 256 * 16 * 16 + 512 * 8 * 8)
    moved = work.traffic(workload.workload("atlas").objective, model, (64, 3, 32, 32))
    assert moved == 64 * 2 * (38 * sites + 24 * sums) and moved == pytest.approx(11.8e9, rel=0.01)


def stock_flops(model):
    """Of one weight gradient as a forward convolution: its output is n + 2 p - s (m - 1) wide (image n -> m, stride s,
    padding p), of which the kernel's width is kept."""
    total = 0
    for c, count in work.convolutions(model, SHAPE).items():
        (n, _), (s, _), (p, _), (k, _) = c.image, c.stride, c.padding, c.kernel
        m = (n + 2 * p - k) // s + 1
        total += count * 2 * SHAPE[0] * c.in_channels * c.out_channels * m**2 * (n + 2 * p - s * (m - 1)) ** 2
    return total


@pytest.mark.parametrize("method", METHODS)
def test_the_plain_step_executes_what_is_needed(method):
    """Beyond the need, exactly: p(x) again for an adversary by KL; the images' gradient in the penalised point's last
    backward (they require grad); what the stock weight gradient computes and throws away."""
    load, model = workload.workload(method), network()
    x, y = torch.rand(SHAPE), torch.arange(2)
    one = convolution_flops(lambda: model(x))["forward"]
    need = work.passes(load.objective)
    done = convolution_flops(lambda: reference_step.step(
        load.method, model, workload.sgd(model), x, y, eps=workload.EPS, step_size=load.step_size, steps=load.steps,
        **load.weights))
    stock = need.weights - need.inner
    assert done["forward"] == (need.forward + need.clean_forward) * one
    assert done["input gradient"] == (need.to_images + need.inner) * one - (need.inner - stock) * FIRST
    assert done["weight gradient"] == need.inner * one
    assert done[STOCK] == stock * stock_flops(model)


@pytest.mark.parametrize("engine", ["autograd", "sweeps"])
@pytest.mark.parametrize("method", METHODS)
def test_engines_execute_no_more_than_the_plain_step(method, engine):
    load, model = workload.workload(method), network()
    x, y = torch.rand(SHAPE), torch.arange(2)
    one = convolution_flops(lambda: model(x))["forward"]
    need = work.passes(load.objective)
    step = af.TrainingStep(model, load.objective, workload.sgd(model), engine, amp="off")
    done = convolution_flops(lambda: step(x, y))
    assert done["forward"] <= (need.forward + need.clean_forward) * one
    assert done["input gradient"] <= (need.to_images + need.inner) * one - (need.inner - (engine == "autograd")) * FIRST
    if engine == "sweeps":
        assert done["input gradient"] == (need.to_images + need.inner) * one - need.inner * FIRST
        assert done["weight gradient"] == need.weights * one and not done[STOCK]
