"""What type checkers see of the public interface; mypy reads this file (pyproject.toml), nothing runs it."""

from collections.abc import Callable

import torch
from typing_extensions import assert_type

import atlas_fast as af


def library(optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    model = af.models.create("wrn-28-8", num_classes=10, normalize=((0.5,) * 3, (0.25,) * 3))
    assert_type(model, torch.nn.Module)
    objective = af.objectives.atlas(eps=8 / 255, alpha=2e-4, beta=5.0, steps=1)
    assert_type(objective, af.objectives.Objective)
    assert_type(objective(model, x, y, ramp=0.5), torch.Tensor)
    assert_type(objective.terms, dict[str, torch.Tensor])
    assert_type(objective.replace(metric=lambda p, q: (p - q).square().mean()), af.objectives.Objective)
    step = af.TrainingStep(model, objective, optimizer, awp=0.01, ema=0.999)
    assert_type(step(x, y), dict[str, torch.Tensor])
    assert_type(step.averaged, torch.nn.Module | None)
    assert_type(step.engine_reason, str | None)
    assert_type(af.FreeStep(model, objective, optimizer, replays=8)(x, y), dict[str, torch.Tensor])
    assert_type(af.YopoStep(model, objective, optimizer, passes=5)(x, y), dict[str, torch.Tensor])
    assert_type(af.attacks.PGD(eps=8 / 255, step_size=0.007, steps=20)(model, x, y), torch.Tensor)
    assert_type(af.attacks.AutoAttack(8 / 255)(af.attacks.Network(model), x, y), torch.Tensor)
    assert_type(af.load("runs/a"), torch.nn.Module)
    report = af.evaluate(model, x, y, attacks=["pgd-20", "autoattack"], eps=8 / 255)
    assert_type(report, dict)


def operations(x: torch.Tensor, grad: torch.Tensor, logits: torch.Tensor, y: torch.Tensor) -> None:
    rng = af.ops.make_rng(0)
    start = af.ops.random_start(x, torch.tensor(0.1), rng)
    assert_type(af.ops.pgd_step(x, start, grad, 0.1, torch.tensor(0.01)), torch.Tensor)
    assert_type(af.ops.fgsm(x, grad, eps=0.1, step_size=0.125, rng=rng), torch.Tensor)
    assert_type(af.ops.ce_kl(logits, logits, y, beta=5.0), torch.Tensor)
    assert_type(af.ops.jacobian_norm(logits, x, num_projections=1), torch.Tensor)


def an_attack_is_a_function() -> Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]:
    return af.attacks.FGSM(eps=0.1)


def mistakes_are_found(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    af.objectives.atlas(eps="8/255", alpha=2e-4, beta=5.0)  # type: ignore[arg-type]
    af.objectives.trades(eps=8 / 255)  # type: ignore[call-arg]
    af.attacks.PGD(eps=8 / 255, step=20)  # type: ignore[call-arg]
    af.TrainingStep(model, "atlas", None)  # type: ignore[arg-type]
    af.evaluate(model, x, y, attack="pgd-20")  # type: ignore[call-arg]
