"""Clean and robust accuracy of a model on a set of images, in eval mode and float precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..engine import Ranks
from . import distances, masking, sweeps
from .accuracies import accuracy, standard_error
from .run import Evaluation, check_data
from .samples import AttackResult, worst_case
from .suite import Planned, create_suite


def evaluate(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor,
             attacks: Sequence[str] | Mapping[str, Callable] = ("pgd-20",), eps: float = 8 / 255,
             step_size: float | None = None, batch_size: int = 256, seed: int = 0, *, norm: str = "Linf",
             any_step: bool = False, dataset: str | None = None, surrogate: torch.nn.Module | None = None,
             ranks: Ranks | None = None) -> dict:
    """Clean accuracy and robust accuracy under each attack.

    model: images [N, C, H, W] in [0, 1] -> logits; evaluated in eval mode and left in the mode it was in; x: images
    (uint8 0..255 or float in [0, 1]), y: int64 labels [N], on any device, moved batch by batch to the model's;
    attacks: names ("fgsm", "pgd-K", "pgd-K-R": K steps, R restarts; all: `suite.KNOWN`), or {name: callable
    (model, x, y) -> x_adv}; eps, step_size: pixel units, step_size for PGD and its like, None: 2.5 eps / K; norm:
    Linf or L2; any_step: an adversary at any step of PGD counts, not only the last; dataset: the data set whose
    settings of the paper names without numbers take; surrogate: the model on which "transfer" crafts. Random numbers
    depend on seed and on the sample's index, not on batch_size. ranks: processes that share the batches, all of which
    make this call with the same arguments and get the same report (`atlas_fast.engine.Ranks.of_group()`: those of
    torch.distributed); None: this one works alone, in a group of torch.distributed too, so that one process of a
    training may evaluate.
    Returns {"n", "clean_accuracy", "attacks": {name: {"robust_accuracy", "standard_error", "interval_95", "n",
    "settings", "seconds"}}, "worst_case": {"robust_accuracy", ...}, "masking": [sentences], ...}; accuracies in [0, 1].
    "masking" says why a figure may be too high: what some of the images show of the model itself, and attacks that
    contradict each other; it is empty where nothing was seen.
    A sample is robust when its label is predicted both at x and at x_adv: x lies in the ball too.
    Raises UserError for unknown attacks, inputs that make no sense, and attacks that leave the ball.
    """
    plan = create_suite(attacks, eps, step_size, norm=norm, any_step=any_step, dataset=dataset, surrogate=surrogate,
                        batch_size=batch_size)
    check_data(x, y)
    ranks = Ranks.alone() if ranks is None else ranks
    evaluation = Evaluation(model, x, y, batch_size, seed, show=ranks.leads, ranks=ranks)
    return measure(evaluation, plan, eps, norm).report


@dataclass(frozen=True)
class Measured:
    """report: JSON values, see `evaluate`; prediction: int64 [N] without attack; distances: `distances.measure`."""

    report: dict
    prediction: np.ndarray
    results: dict[str, AttackResult]
    distances: dict[str, np.ndarray] | None


def measure(evaluation: Evaluation, plan: dict[str, Planned], eps: float, norm: str,
            with_curves: bool = False, with_distances: bool = False) -> Measured:
    """Run everything. with_curves, with_distances: also `sweeps` and `distances`."""
    prediction = evaluation.predictions()
    correct = prediction == evaluation.y.cpu().numpy()
    results = {name: evaluation.attack(name, planned, correct) for name, planned in plan.items()}
    curves = sweeps.sweep(evaluation, correct, eps, norm) if with_curves else None
    report = build_report(correct, results, evaluation.seed, curves, evaluation.about_model())
    found = distances.measure(evaluation, correct) if with_distances else None
    if found is not None:
        report["distances"] = distances.summary(found)
    return Measured(report, prediction, results, found)


def robust_accuracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, attack: Callable,
                    batch_size: int = 256, seed: int = 0, label: str | None = None) -> tuple[float, float]:
    """(clean accuracy, robust accuracy) under one attack object, both in [0, 1]; see `evaluate`.

    attack: (model, x, y, rng=, sample_offset=) -> images in [0, 1], whatever their distance; label: names the
    progress bar.
    """
    check_data(x, y)
    evaluation = Evaluation(model, x, y, batch_size, seed, show=label is not None)
    correct = evaluation.predictions() == y.cpu().numpy()
    result = evaluation.attack(label or "attack", Planned(attack, eps=None), correct)
    return float(correct.mean()), float(result.robust(correct).mean())


def build_report(correct: np.ndarray, results: dict[str, AttackResult], seed: int,
                 curves: sweeps.Curves | None = None, about_model: Sequence[str] = ()) -> dict:
    """What `evaluate` returns: JSON values only. correct: bool [N], right without attack; about_model: sentences that
    join the signs of masking."""
    n, clean = len(correct), float(correct.mean())
    attacks = {name: {**accuracy(result.robust(correct)), "settings": {**result.settings, "seed": seed},
                      "seconds": result.seconds} for name, result in results.items()}
    report = {"n": n, "clean_accuracy": clean, "clean_standard_error": standard_error(clean, n), "attacks": attacks,
              "worst_case": {**accuracy(worst_case(correct, results)), "attacks": list(results)},
              "masking": [*about_model, *masking.signs(correct, results, curves)]}
    if curves is not None:
        report["curves"] = {key: [{k: v for k, v in point.items() if k != "broken"} for point in getattr(curves, key)]
                            for key in ("eps", "steps")}
    return report
