"""Targeted Fast Adaptive Boundary attack, FAB-T (Croce & Hein 2020b, "Minimally distorted adversarial examples").

For a target class t, w = grad (z_t - z_y)(x_k) and the hyperplane pi where the linearised z_t - z_y is 0:

    x_{k+1} = clip((1 - a) (x_k + eta d(x_k)) + a (x + eta d(x))),   d: to the nearest point of pi within [0, 1]^n
    a = min(||d(x_k)|| / (||d(x_k)|| + ||d(x)||), alpha_max)

and where x_{k+1} is misclassified, the run goes on from x + beta (x_{k+1} - x), nearer to the clean image x. The attack
looks for the nearest adversary and knows no eps; a sample is fooled when one comes within eps of it.
"""

from __future__ import annotations

import torch

from ..errors import UserError
from ..ops import rng as random
from .apgd import likely_classes
from .attempts import Outcome
from .balls import noises
from .checks import at_least_one, check_batch, check_logits, finite, non_negative, positive
from .fab_run import Run
from .network import Network
from .statistics import norm_layers, statistics_kept
from .steps import check_norm
from .survivors import per_image


class FABTargeted:
    """FAB-T; AutoAttack runs it with these defaults.

    eps: pixel units, within which an adversary counts; steps: for each target and restart; restarts: the first begins
    at x, the others at random at a distance of eps / 2; targets: the classes with the 2nd, 3rd, ... highest logit at x,
    so many (one less than there are, at most); alpha_max in [0, 1], eta >= 1, beta in [0, 1]: see above; norm: "Linf"
    or "L2". Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, steps: int = 100, restarts: int = 1, targets: int = 9, alpha_max: float = 0.1,
                 eta: float = 1.05, beta: float = 0.9, norm: str = "Linf"):
        self.eps, self.steps, self.norm = positive(eps, "eps"), at_least_one(steps, "steps"), check_norm(norm)
        self.restarts, self.targets = at_least_one(restarts, "restarts"), at_least_one(targets, "targets")
        self.alpha_max, self.beta = non_negative(alpha_max, "alpha_max"), non_negative(beta, "beta")
        self.eta = finite(eta, "eta")
        if self.eta < 1 or self.alpha_max > 1 or self.beta > 1:
            raise UserError("FAB needs eta >= 1 and alpha_max and beta in [0, 1], got "
                            f"eta={eta!r}, alpha_max={alpha_max!r}, beta={beta!r}")

    @property
    def settings(self) -> dict:
        """What a report should say about this attack."""
        return {"eps": self.eps, "norm": self.norm, "steps": self.steps, "restarts": self.restarts,
                "targets": self.targets, "alpha_max": self.alpha_max, "eta": self.eta, "beta": self.beta}

    def __call__(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
                 rng: torch.Tensor | None = None, sample_offset: int = 0) -> torch.Tensor:
        """x_adv like x: the first adversary found within eps of x and in [0, 1]; x where there is none or none is
        needed. The model stays in its mode; evaluate in eval mode.

        model: images -> logits [N, C], or a `Network` of it; x: float images [N, ...] in [0, 1]; y: int64 labels [N];
        rng: int64 [2] (seed, step) on x's device, None draws a seed from torch's default generator; sample_offset:
        index of the first sample, so that results do not depend on how a data set is cut into batches. Raises
        UserError for other inputs or a model that returns no logits [N, C].
        """
        check_batch(x, y)
        x, rng, network = x.detach(), random.resolve_rng(rng, x.device), Network(model)
        with statistics_kept(norm_layers(network.model)):
            logits = network.logits(x)
            check_logits(logits, y)
            classes = likely_classes(logits, self.targets)
            outcome = Outcome(x, through=logits.argmax(1) != y)

            def run(sample, attempt, numbers):
                clean = start = x[sample]
                if self.restarts > 1:
                    start = self._starts(x, sample, numbers, rng, sample_offset)
                descend = Run(network, self.norm, self.eps, self.steps, self.alpha_max, self.eta, self.beta)
                descend(outcome, sample, attempt, y[sample], classes[sample, attempt // self.restarts], clean, start)

            return outcome.in_turn(self.restarts * classes.shape[1], run)

    def _starts(self, x, sample, numbers, rng, sample_offset):
        directions = noises(self.norm, x, sample, rng, random.FAB, numbers, sample_offset)
        sizes = torch.tensor([0.0 if n % self.restarts == 0 else 0.5 * self.eps for n in numbers], device=x.device)
        sizes = sizes.to(x.dtype).repeat_interleave(len(sample) // len(numbers))
        return (x[sample] + per_image(sizes, x) * directions).clamp_(0, 1)
