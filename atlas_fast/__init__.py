"""atlas_fast: adversarial training with ATLAS (local stability), fast, and the evaluation of its robustness.

    import atlas_fast as af
    objective = af.objectives.atlas(eps=8 / 255, alpha=2e-4, beta=5.0, steps=1)
    step = af.TrainingStep(model, objective, optimizer)
    terms = step(x, y)                                        # one whole optimisation step
    x_adv = af.attacks.PGD(eps=8 / 255, step_size=0.007, steps=20)(model, x, y)
"""

from . import attacks, data, models, objectives, ops
from .engine import FreeStep, TrainingStep, YopoStep
from .errors import UserError
from .evaluation import evaluate
from .loading import load

__version__ = "0.1.0"
__all__ = ["FreeStep", "TrainingStep", "UserError", "YopoStep", "__version__", "attacks", "data", "evaluate", "load",
           "models", "objectives", "ops"]
