"""atlas_fast: adversarial training with ATLAS (local stability), fast, and the evaluation of its robustness.

    import atlas_fast as af
    objective = af.objectives.atlas(eps=8 / 255, alpha=2e-4, beta=5.0, steps=1)
    loss = objective(model, x, y)
"""

from . import ops

__version__ = "0.1.0"
__all__ = ["__version__", "ops"]
