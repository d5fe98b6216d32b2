"""How a step is executed: one step program, views of a network, the training step."""

from .autograd_view import AutogradView
from .training_step import TrainingStep

__all__ = ["AutogradView", "TrainingStep"]
