"""Projected gradient descent, L_inf (Madry et al. 2018; equation 2 of the paper)."""

import torch

from .. import ops
from ..errors import UserError
from ..ops.rng import resolve_rng
from .ascend import ascend, default_step_size
from .checks import at_least_one, check_batch, check_logits, positive
from .directions import ascend_ce
from .statistics import norm_layers, statistics_kept


class PGD:
    """Ascends the cross-entropy by `steps` projected sign steps; the last iterate counts.

    eps, step_size: pixel units (images in [0, 1]); step_size None: 1.25 eps for one step, 2.5 eps / steps for more.
    restarts: independent random starts; a sample keeps the first adversary that is misclassified, or the last one
    where none is. random_start False starts at x. Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, step_size: float | None = None, steps: int = 20, restarts: int = 1,
                 random_start: bool = True):
        self.eps = positive(eps, "eps")
        self.steps = at_least_one(steps, "steps")
        self.step_size = default_step_size(eps, steps) if step_size is None else positive(step_size, "step_size")
        self.restarts = at_least_one(restarts, "restarts")
        self.random_start = random_start
        if restarts > 1 and not random_start:
            raise UserError("restarts > 1 needs random_start=True: without it every restart is the same")

    @property
    def settings(self) -> dict:
        """What a report should say about this attack."""
        return {"eps": self.eps, "step_size": self.step_size, "steps": self.steps, "restarts": self.restarts,
                "random_start": self.random_start}

    def __call__(self, model, x: torch.Tensor, y: torch.Tensor, rng: torch.Tensor | None = None,
                 sample_offset: int = 0) -> torch.Tensor:
        """x_adv like x, within eps of x and in [0, 1]; no gradient. The model stays in its mode; evaluate in eval mode.

        x: float images [N, ...] in [0, 1]; y: int64 labels [N]; rng: int64 [2] (seed, step) on x's device, None draws a
        seed from torch's default generator; sample_offset: index of the first sample, so that results do not depend on
        how a data set is cut into batches. Raises UserError for other inputs or a model that returns no logits [N, C].
        """
        check_batch(x, y)
        x = x.detach()
        rng = resolve_rng(rng, x.device) if self.random_start else None
        with statistics_kept(norm_layers(model)):
            x_adv = self._ascend(model, x, y, rng, 0, sample_offset)
            for restart in range(1, self.restarts):
                fooled = misclassified(model, x_adv, y)
                other = self._ascend(model, x, y, rng, restart, sample_offset)
                x_adv = torch.where(fooled.view(-1, *[1] * (x.dim() - 1)), x_adv, other)
        return x_adv

    def _ascend(self, model, x, y, rng, restart, sample_offset):
        return ascend(x, lambda x_adv: ce_gradient(model, x_adv, y), self.eps, self.step_size, self.steps, rng,
                      purpose=ops.stream(ops.RANDOM_START, restart), sample_offset=sample_offset)


@torch.enable_grad()
def ce_gradient(model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gradient of the summed cross-entropy with respect to the images; no weight gradient is computed."""
    x = x.detach().requires_grad_()
    logits = model(x)
    check_logits(logits, y)
    if not logits.requires_grad:
        raise UserError("the model's output does not depend on x differentiably, so there is no gradient to ascend")
    return torch.autograd.grad(logits, x, ascend_ce(logits.detach(), y))[0]


@torch.no_grad()
def misclassified(model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """bool [N]: the class of the largest logit is not y."""
    logits = model(x)
    check_logits(logits, y)
    return logits.argmax(1) != y
