"""How a step is executed: one step program, views of a network, the training step."""

from .autograd_view import AutogradView
from .free_step import FreeStep
from .inference import FastNetwork
from .ranks import Ranks
from .step_settings import AMP, ENGINES
from .sweep_view import SweepView
from .training_step import TrainingStep
from .yopo_step import YopoStep

__all__ = ["AMP", "ENGINES", "AutogradView", "FastNetwork", "FreeStep", "Ranks", "SweepView", "TrainingStep",
           "YopoStep"]
