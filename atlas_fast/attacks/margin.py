"""Un-T and Multi-T: sign-gradient ascent of a margin of the logits (the paper's section 6 and appendix B).

    Un-T      f_u - f_c,   u = argmax_{i != c} f_i, chosen anew at every step      (Carlini & Wagner 2017)
    Multi-T   f_t - f_c    for every class t != c in turn                          (Gowal et al. 2019)

c is the label. Both start at random, and "an attack is successful if an adversary is found after a gradient update at
any point" (appendix B). The paper gives restarts and steps, no step size; here 2.5 eps / steps unless one is given.
"""

from __future__ import annotations

from .checks import at_least_one
from .directions import ascend_margin, ascend_target_margin
from .projected import ProjectedAscent
from .rows import Row

TOGETHER = 32
"""Targets of a sample that run as one unit; more classes make several units. Part of the definition of which adversary
is kept (see `search`), so that it is a constant and no option."""


class Untargeted(ProjectedAscent):
    """Un-T. Defaults: the paper's on WRN-28-8, 10 restarts of 100 steps; on the small CNN it runs 20 of 50.

    eps, step_size: pixel units (images in [0, 1]), of the norm "Linf" or "L2". A sample keeps its first misclassified
    iterate and leaves; one that nothing breaks keeps the last iterate. any_step False: only last iterates count.
    max_batch: images at once where restarts make more, None: as many as the batch has. Raises UserError for values that
    make no sense.
    """

    def __init__(self, eps: float, step_size: float | None = None, steps: int = 100, restarts: int = 10,
                 random_start: bool = True, norm: str = "Linf", any_step: bool = True, max_batch: int | None = None):
        super().__init__(eps, step_size, steps, restarts, random_start, norm, any_step, max_batch)

    _direction = staticmethod(ascend_margin)


class MultiTargeted(ProjectedAscent):
    """Multi-T. Defaults: the paper's on WRN-28-8, 5 restarts of 20 steps for every wrong class; on the small CNN 20 of
    50. Every target of every restart has a random start of its own.

    eps, step_size: pixel units; the other arguments are those of `Untargeted`. The targets of a sample run side by side
    and leave together. Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, step_size: float | None = None, steps: int = 20, restarts: int = 5,
                 random_start: bool = True, norm: str = "Linf", any_step: bool = True, max_batch: int | None = None):
        super().__init__(eps, step_size, steps, restarts, random_start, norm, any_step, max_batch)

    _direction = staticmethod(ascend_target_margin)

    def _units(self, network, x) -> list[list[Row]]:
        """Per restart one unit, or several of nearly one size; target k of restart r has the random start r T + k."""
        targets = at_least_one(network.logits(x).shape[1] - 1, "the number of wrong classes")
        blocks = -(-targets // TOGETHER)
        bounds = [targets * b // blocks for b in range(blocks + 1)]
        return [[Row(restart * targets + k, k) for k in range(bounds[b], bounds[b + 1])]
                for restart in range(self.restarts) for b in range(blocks)]
