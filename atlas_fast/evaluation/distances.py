"""First-order distances of images to the decision boundary: equations 10 and 11 of the paper.

They hold for the network's linearisation at x only: a network is robust there when the boundary is as flat as that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..attacks.network import Network
from .run import Evaluation, subset
from .verify import eval_mode

KEYS = ("l2", "bound", "linf")
DISTANCE_IMAGES = 1_000  # each costs as many gradients as there are classes


def first_order(model, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Per sample, with c = y: {"l2": min over c' of |f_c - f_c'| / ||grad f_c - grad f_c'||_2 (equation 10),
    "bound": min over c' of |f_c - f_c'| / (sqrt(2) ||J||_F) (equation 11; never above l2),
    "linf": equation 10 with the dual norm ||.||_1 in the denominator, so a distance in L_inf}.

    x: images [N, ...] in the model's dtype; y: int64 [N]. Tensors [N] in pixel units, x's dtype. C gradients: one for
    each f_c - f_c' and one for f_c, and the rows of J are their differences. model: or a `Network` of it.
    """
    network = Network(model)
    logits, own = network.gradient(x, _one_hot(y))
    square = own.flatten(1).pow(2).sum(1)
    nearest = {"l2": torch.full_like(square, torch.inf), "linf": torch.full_like(square, torch.inf)}
    margins = logits.gather(1, y[:, None]) - logits
    for step in range(1, logits.shape[1]):
        other = (y + step) % logits.shape[1]
        _, difference = network.gradient(x, _one_hot(y, other))
        difference = difference.flatten(1)
        margin = margins.gather(1, other[:, None])[:, 0].abs()
        for key, norm in (("l2", 2), ("linf", 1)):
            nearest[key] = torch.minimum(nearest[key], margin / difference.norm(norm, dim=1))
        square += (own.flatten(1) - difference).pow(2).sum(1)
    smallest = margins.abs().scatter(1, y[:, None], torch.inf).amin(1)
    return {**nearest, "bound": smallest / (2 * square).sqrt()}


def measure(evaluation: Evaluation, correct: np.ndarray) -> dict[str, np.ndarray]:
    """{"index" int64 [k], and `first_order`'s keys float32 [k]} of at most DISTANCE_IMAGES images, where right."""
    index = subset(len(evaluation.y), DISTANCE_IMAGES, evaluation.seed)
    index = index[correct[index]]
    found = {key: np.zeros(len(index), np.float32) for key in KEYS}
    with eval_mode(evaluation.model):
        mine = {start: _first_order(evaluation, index[start:start + evaluation.batch_size])
                for start in evaluation.ranks.share_out(range(0, len(index), evaluation.batch_size))}
    for start, values in evaluation.ranks.exchange(mine).items():
        for key, value in values.items():
            found[key][start:start + len(value)] = value
    return {"index": index, **found}


def _first_order(evaluation: Evaluation, rows: np.ndarray) -> dict[str, np.ndarray]:
    values = first_order(evaluation.network, *evaluation.images(rows))
    return {key: value.float().cpu().numpy() for key, value in values.items()}


def summary(distances: dict[str, np.ndarray]) -> dict:
    """{"n", "median_l2", "median_bound", "median_linf"} for the report; None where the median is not finite."""
    medians = {key: float(np.median(distances[key])) if len(distances[key]) else np.nan for key in KEYS}
    return {"n": len(distances["index"]),
            **{f"median_{key}": value if np.isfinite(value) else None for key, value in medians.items()}}


def _one_hot(y: torch.Tensor, minus: torch.Tensor | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Cotangent of f_y, or of f_y - f_minus."""

    def cotangent(logits: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros_like(logits).scatter_(1, y[:, None], 1)
        return rows if minus is None else rows.scatter_(1, minus[:, None], -1)

    return cotangent
