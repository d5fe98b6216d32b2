"""What is known of every single image: per attack whether it was broken, how far away, and what the model then said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..training.files import write_atomically

EXAMPLES = 12  # adversaries of an attack that are kept for pictures


@dataclass
class AttackResult:
    """One attack on n of the N images. Arrays have n rows and follow `index`.

    index: int64, position among the N images; broken: bool, verified: y is not predicted at x_adv; prediction: int64
    there; linf, l2: float32 distances of x_adv from x, pixel units; details: what else the attack tells per image
    (the step, the part of a cascade, queries, ...); kept: int64, positions among the n of the images `adversaries`
    float32 [k, C, H, W]; seconds; warnings: sentences of the attack itself.
    """

    settings: dict
    index: np.ndarray
    broken: np.ndarray
    prediction: np.ndarray
    linf: np.ndarray
    l2: np.ndarray
    kept: np.ndarray
    adversaries: np.ndarray
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    details: dict[str, np.ndarray] = field(default_factory=dict)
    black_box: bool = False

    def robust(self, correct: np.ndarray) -> np.ndarray:
        """bool [n]: right at x and at x_adv. correct: bool [N]."""
        return correct[self.index] & ~self.broken


def worst_case(correct: np.ndarray, results: dict[str, AttackResult]) -> np.ndarray:
    """bool [N]: right at x and not broken by any of the attacks (those that saw it)."""
    robust = correct.copy()
    for result in results.values():
        robust[result.index[result.broken]] = False
    return robust


def save_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Arrays without pickle, atomically. UserError where the disk is full."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)

    write_atomically(path, write)


def load_npz(path: Path, what: str) -> dict[str, np.ndarray]:
    """Arrays of a file; `what` says in the UserError of a corrupt one what it is and what to do."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file.items())
    except Exception as error:  # a damaged header or archive may raise anything
        raise UserError(f"{path} cannot be read as {what}") from error


def per_sample_arrays(labels: np.ndarray, prediction: np.ndarray, results: dict[str, AttackResult],
                      distances: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """The contents of per_sample.npz: label, prediction, correct and robust (worst case) [N]; ATTACK/index, /broken,
    /prediction, /linf, /l2 and the attack's details [n]; the first-order distances as distances/... ."""
    correct = prediction == labels
    arrays = {"label": labels, "prediction": prediction, "correct": correct, "robust": worst_case(correct, results)}
    for name, result in results.items():
        own = {key: getattr(result, key) for key in ("index", "broken", "prediction", "linf", "l2")}
        arrays |= {f"{name}/{key}": value for key, value in {**own, **result.details}.items()}
    return arrays | {f"distances/{key}": value for key, value in (distances or {}).items()}
