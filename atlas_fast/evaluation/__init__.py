"""Robust accuracy under attacks."""

from .robust_accuracy import evaluate, robust_accuracy

__all__ = ["evaluate", "robust_accuracy"]
