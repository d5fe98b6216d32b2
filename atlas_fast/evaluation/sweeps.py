"""Robust accuracy against eps and against the number of PGD's steps, on at most CURVE_IMAGES images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .accuracies import accuracy
from .run import Evaluation
from .suite import Planned, sweep_attack

CURVE_IMAGES = 1_000
EPS_STEPS = 20  # PGD steps of the eps curve, each 2.5 eps / 20
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)  # of eps; L_inf goes on to 0.5, where nothing can be robust
STEPS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Curves:
    """Points {"eps", "steps", "robust_accuracy", "standard_error", "interval_95", "n", "broken" bool [n]} in order."""

    norm: str
    eps: list[dict]
    steps: list[dict]


def names_and_attacks(eps: float, norm: str) -> tuple[dict, dict]:
    """({name: (point, planned)} of the eps curve, the same of the steps curve)."""
    radii = [factor * eps for factor in FACTORS]
    if norm == "Linf":
        radii = sorted({min(radius, 1.0) for radius in radii} | {max(0.5, min(1.0, 2 * eps))})

    def points(what: str, pairs) -> dict:
        return {f"curve-{what}-{number}": ({"eps": radius, "steps": steps},
                                           sweep_attack(radius, steps, norm, CURVE_IMAGES))
                for number, (radius, steps) in enumerate(pairs)}

    return points("eps", [(radius, EPS_STEPS) for radius in radii]), points("steps", [(eps, k) for k in STEPS])


def sweep(evaluation: Evaluation, correct: np.ndarray, eps: float, norm: str) -> Curves:
    """Both curves. correct: bool [N], right without attack."""
    lines = []
    for attacks in names_and_attacks(eps, norm):
        points = []
        for name, (point, planned) in attacks.items():
            result = evaluation.attack(name, planned, correct)
            right = correct[result.index]
            points.append({**point, **accuracy(right & ~result.broken), "broken": right & result.broken})
        lines.append(points)
    clean = correct[result.index]
    origin = {"eps": 0.0, "steps": 0, **accuracy(clean), "broken": ~clean & clean}
    return Curves(norm, [origin, *lines[0]], lines[1])


def curve_plan(eps: float, norm: str) -> dict[str, Planned]:
    """{name: attack} of all points, as `sweep` runs them."""
    return {name: planned for attacks in names_and_attacks(eps, norm) for name, (_, planned) in attacks.items()}
