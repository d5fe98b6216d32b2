"""How a step is executed: one step program, views of a network, the training step."""

from .autograd_view import AutogradView
from .inference import FastNetwork
from .sweep_view import SweepView
from .training_step import ENGINES, TrainingStep

__all__ = ["ENGINES", "AutogradView", "FastNetwork", "SweepView", "TrainingStep"]
