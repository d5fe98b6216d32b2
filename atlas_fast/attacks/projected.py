"""What the attacks by projected ascent share: settings, checks, starts; the loop is in `search`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import UserError
from ..ops.rng import resolve_rng
from . import steps as moves
from .ascend import default_step_size
from .checks import at_least_one, check_batch, positive
from .network import Network
from .rows import Row
from .search import Loop, Search
from .statistics import norm_layers, statistics_kept


class ProjectedAscent:
    """A subclass says which function of the logits ascends (`_direction`) and what a restart consists of (`_units`).

    eps, step_size: pixel units (images in [0, 1]), of the norm "Linf" or "L2"; step_size None: 1.25 eps for one step,
    2.5 eps / steps for more. random_start False starts at x. any_step: a sample that is misclassified after any update
    counts and keeps that iterate, else the last iterate counts. max_batch: images that run at once, where samples,
    restarts and targets make more (no result depends on it); None: as many as the batch has. After a call with any_step
    `details` holds {"step": int64 [N]}, the updates after which each adversary was one, -1 where there is none.
    """

    _direction: Callable[..., torch.Tensor]

    def __init__(self, eps: float, step_size: float | None, steps: int, restarts: int, random_start: bool, norm: str,
                 any_step: bool, max_batch: int | None):
        self.eps = positive(eps, "eps")
        self.steps = at_least_one(steps, "steps")
        self.step_size = default_step_size(eps, steps) if step_size is None else positive(step_size, "step_size")
        self.restarts = at_least_one(restarts, "restarts")
        self.random_start, self.norm, self.any_step = random_start, moves.check_norm(norm), any_step
        self.max_batch = None if max_batch is None else at_least_one(max_batch, "max_batch")
        if restarts > 1 and not random_start:
            raise UserError("restarts > 1 needs random_start=True: without it every restart is the same")

    @property
    def settings(self) -> dict:
        """What a report should say about this attack."""
        return {"eps": self.eps, "norm": self.norm, "step_size": self.step_size, "steps": self.steps,
                "restarts": self.restarts, "random_start": self.random_start, "any_step": self.any_step}

    def __call__(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
                 rng: torch.Tensor | None = None, sample_offset: int = 0) -> torch.Tensor:
        """x_adv like x, within eps of x and in [0, 1]; no gradient. The model stays in its mode; evaluate in eval mode.

        model: images -> logits [N, C], or a `Network` of it; x: float images [N, ...] in [0, 1]; y: int64 labels [N];
        rng: int64 [2] (seed, step) on x's device, None draws a seed from torch's default generator; sample_offset:
        index of the first sample, so that results do not depend on how a data set is cut into batches. Raises
        UserError for other inputs or a model that returns no logits [N, C].
        """
        check_batch(x, y)
        x, network = x.detach(), Network(model)
        rng = resolve_rng(rng, x.device) if self.random_start else None

        def start(images, draw, first):
            return images if rng is None else moves.random_start(images, self.eps, self.norm, rng, draw,
                                                                 sample_offset + first)

        loop = Loop(start, self._direction, self.eps, self.step_size, self.steps, self.norm, self.any_step)
        with statistics_kept(norm_layers(network.model)):
            search = Search(network, x, y, loop, self.max_batch or len(x))
            x_adv = search.run(self._units(network, x))
        # Where only the last iterate counts, the step says nothing, and one restart is not looked at again.
        self.details = {"step": search.step} if self.any_step else {}
        return x_adv

    def _units(self, network: Network, x: torch.Tensor) -> list[list[Row]]:
        return [[Row(restart)] for restart in range(self.restarts)]
