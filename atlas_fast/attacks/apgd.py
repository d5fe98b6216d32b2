"""Auto-PGD (Croce & Hein 2020): APGD on the cross-entropy or the DLR loss, and APGD-T on the targeted DLR loss.

AutoAttack runs both with 100 steps, one restart, rho 0.75 and, for APGD-T, nine targets: the defaults here. One run is
in apgd_run.py. A sample is fooled when any iterate is misclassified; x_adv is then the first such iterate, and x for a
sample that is not fooled or is misclassified at x already.
"""

from __future__ import annotations

import torch

from ..errors import UserError
from ..ops import rng as random
from .apgd_run import Run
from .attempts import Outcome
from .balls import ball, noises
from .checks import at_least_one, check_batch, check_logits, finite, positive
from .losses import ce, check_classes, dlr, targeted_dlr
from .network import Network
from .statistics import norm_layers, statistics_kept
from .steps import check_norm

LOSSES = {"ce": ce, "dlr": dlr}


class APGD:
    """Untargeted APGD.

    eps: radius in pixel units; loss: "ce" or "dlr" (3 classes or more); steps: of a restart; restarts: independent
    random starts, each for the samples that are not fooled yet; rho: the share of the steps that must raise the loss
    for the step size to stay; norm: "Linf" or "L2". Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, loss: str = "ce", steps: int = 100, restarts: int = 1, rho: float = 0.75,
                 norm: str = "Linf"):
        if loss not in tuple(LOSSES):
            raise UserError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
        self.eps, self.loss, self.steps = positive(eps, "eps"), loss, at_least_one(steps, "steps")
        self.restarts, self.rho, self.norm = at_least_one(restarts, "restarts"), check_rho(rho), check_norm(norm)

    @property
    def settings(self) -> dict:
        """What a report should say about this attack."""
        return {"eps": self.eps, "norm": self.norm, "loss": self.loss, "steps": self.steps, "restarts": self.restarts,
                "rho": self.rho}

    def __call__(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
                 rng: torch.Tensor | None = None, sample_offset: int = 0) -> torch.Tensor:
        """x_adv like x, within eps of x and in [0, 1]; no gradient. The model stays in its mode; evaluate in eval mode.

        model: images -> logits [N, C], or a `Network` of it; x: float images [N, ...] in [0, 1]; y: int64 labels [N];
        rng: int64 [2] (seed, step) on x's device, None draws a seed from torch's default generator; sample_offset:
        index of the first sample, so that results do not depend on how a data set is cut into batches. Raises
        UserError for other inputs or a model that returns no logits [N, C].
        """
        return _attack(self, model, x, y, rng, sample_offset, LOSSES[self.loss])


class APGDTargeted:
    """APGD-T: APGD on the targeted DLR loss towards the classes with the 2nd, 3rd, ... highest logit at x in turn.

    eps: radius in pixel units; targets: how many classes (one less than there are, at most); the others as for `APGD`,
    restarts for each target. Needs 4 classes or more. Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, steps: int = 100, restarts: int = 1, targets: int = 9, rho: float = 0.75,
                 norm: str = "Linf"):
        self.eps, self.steps = positive(eps, "eps"), at_least_one(steps, "steps")
        self.restarts, self.targets = at_least_one(restarts, "restarts"), at_least_one(targets, "targets")
        self.rho, self.norm = check_rho(rho), check_norm(norm)

    @property
    def settings(self) -> dict:
        """What a report should say about this attack."""
        return {"eps": self.eps, "norm": self.norm, "loss": "dlr-targeted", "steps": self.steps,
                "restarts": self.restarts, "targets": self.targets, "rho": self.rho}

    def __call__(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
                 rng: torch.Tensor | None = None, sample_offset: int = 0) -> torch.Tensor:
        """As `APGD`: x_adv like x; a sample is fooled when any class but y is predicted.

        model: images -> logits [N, C], or a `Network` of it; x: float images [N, ...] in [0, 1]; y: int64 labels [N];
        rng, sample_offset: as of `APGD`. Raises UserError for other inputs or a model that returns no logits [N, C].
        """
        return _attack(self, model, x, y, rng, sample_offset, targeted_dlr, self.targets)


def likely_classes(logits: torch.Tensor, targets: int) -> torch.Tensor:
    """The classes of the 2nd, 3rd, ... highest logit: int64 [N, targets], or all C - 1."""
    return logits.topk(min(targets + 1, logits.shape[1]), dim=1).indices[:, 1:]


def check_rho(rho) -> float:
    """`rho` as a float in [0, 1], or UserError."""
    if not 0 <= finite(rho, "rho") <= 1:
        raise UserError(f"rho must be between 0 and 1, got {rho!r}")
    return float(rho)


def _attack(attack: APGD | APGDTargeted, model, x, y, rng, sample_offset, loss, targets=0):
    """An attempt is a restart, for a loss with targets one of a target: its rank times restarts plus the restart."""
    check_batch(x, y)
    x, rng, network = x.detach(), random.resolve_rng(rng, x.device), Network(model)
    kind = (ce, dlr, targeted_dlr).index(loss)  # each has starts of its own

    def run(sample, attempt, numbers):
        around = ball(attack.norm, x[sample], attack.eps)
        directions = noises(attack.norm, x, sample, rng, random.APGD, [3 * n + kind for n in numbers], sample_offset)
        labels = (y[sample], classes[sample, attempt // attack.restarts]) if targets else (y[sample],)
        ascend = Run(network, loss, around, attack.eps, attack.steps, attack.rho)
        ascend(outcome, sample, attempt, labels, around.project(x[sample].add_(directions, alpha=attack.eps)))

    with statistics_kept(norm_layers(network.model)):
        logits = network.logits(x)
        check_logits(logits, y)
        check_classes(logits, loss)
        classes = likely_classes(logits, targets)
        outcome = Outcome(x, through=logits.argmax(1) != y)
        return outcome.in_turn(attack.restarts * max(classes.shape[1], 1), run)
