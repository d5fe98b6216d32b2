"""Robust accuracy under attacks, and reports of it."""

from .robust_accuracy import evaluate, robust_accuracy

__all__ = ["evaluate", "robust_accuracy"]
