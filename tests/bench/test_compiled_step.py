"""torch.compile's baseline is a right step: float64; all formulations as they are, and a few through AOTAutograd."""

import copy

import pytest
import torch
from torch import nn

from atlas_fast import objectives, ops
from bench import compiled_step, workload

N, C = 3, 10


class Residual(nn.Module):
    """Everything that the formulations treat apart: BatchNorm twice, a strided convolution, a sum."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.fc = nn.Linear(4, C)

    def forward(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.fc((x + self.relu2(self.bn2(self.conv2(x)))).mean((2, 3)))


@pytest.fixture
def parts():
    torch._dynamo.reset()
    torch.manual_seed(0)
    x, y = torch.rand(N, 3, 6, 6, dtype=torch.float64), torch.randint(C, (N,))
    return Residual().double(), x, y, ops.make_rng(3)


@pytest.mark.parametrize(("method", "formulation"), [("atlas", "grad"), ("jac", "vjp")])
def test_compiled_gradients_and_statistics(method, formulation, parts):
    check(method, formulation, parts)


@pytest.mark.parametrize("formulation", ["grad", "vjp"])
@pytest.mark.parametrize("method", [*objectives.PAPER, "trades-2", "atlas-2"])
def test_gradients_and_statistics(method, formulation, parts, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **keywords: function)
    check(method, formulation, parts)


def check(method, formulation, parts):
    """Loss, gradients and running statistics are those of the package's objective."""
    model, x, y, rng = parts
    load, other = workload.workload(method), copy.deepcopy(model)
    step = compiled_step.Step(load, model, workload.sgd(model), x, y, formulation, backend="aot_eager")
    (v,) = ops.unit_vectors(rng, N, C).double()
    loss = step.accumulate(ops.random_start(x, workload.EPS, rng), v)
    expected = load.objective(other, x, y, rng=rng)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-13)
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_a_whole_step_around_a_compiled_module_updates_the_parameters(parts):
    model, x, y, _ = parts
    before = copy.deepcopy(model.state_dict())
    step = compiled_step.Step(workload.workload("adv"), model, workload.sgd(model), x, y, "module",
                              backend="aot_eager")
    assert torch.isfinite(step())
    for name, value in model.state_dict().items():
        if name != "conv1.bias" and name != "conv2.bias":  # BatchNorm takes a bias away again
            assert not torch.equal(value, before[name]), name


def test_without_a_jacobian_the_compiled_module_is_tried_too():
    assert compiled_step.formulations(workload.workload("adv"))[0] == "module"
    assert "module" not in compiled_step.formulations(workload.workload("atlas"))
