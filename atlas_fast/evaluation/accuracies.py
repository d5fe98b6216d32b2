"""Accuracies with what they are worth: the number of images, standard errors and intervals."""

from __future__ import annotations

import math

import numpy as np

Z95 = 1.959964  # the normal distribution's 97.5% quantile


def accuracy(right: np.ndarray) -> dict:
    """{"robust_accuracy", "standard_error", "interval_95", "n"} of a bool [n]."""
    n, p = len(right), float(right.mean())
    return {"robust_accuracy": p, "standard_error": standard_error(p, n), "interval_95": list(wilson(p, n)), "n": n}


def standard_error(p: float, n: int) -> float:
    """sqrt(p (1 - p) / n): of the images that were drawn, not of training again with another seed."""
    return math.sqrt(p * (1 - p) / n)


def wilson(p: float, n: int) -> tuple[float, float]:
    """Wilson's (1927) 95% interval; unlike p +- 2 standard errors it is no point where p is 0 or 1."""
    centre, denominator = p + Z95**2 / (2 * n), 1 + Z95**2 / n
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return max(0.0, (centre - half) / denominator), min(1.0, (centre + half) / denominator)


def clearly_more(first: int, second: int) -> bool:
    """Whether `first` images that only one attack breaks are clearly more than `second` that only the other does.

    McNemar's test of paired outcomes: (first - second) / sqrt(first + second) > 2, so at least five images.
    """
    return first - second > 2 * math.sqrt(first + second)
