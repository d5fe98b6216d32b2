"""AutoAttack (Croce & Hein 2020), standard version: four attacks without free parameters, one after the other.

    APGD-CE  100 steps                APGD-T  100 steps, 9 targets
    FAB-T    100 steps, 9 targets     Square  5000 queries               one restart each

Each part attacks the samples that those before it left, and a sample is robust when none broke it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from ..errors import UserError
from ..ops.rng import resolve_rng
from .apgd import APGD, APGDTargeted
from .autoattack_checks import check_square
from .checks import at_least_one, check_batch, check_logits, positive
from .fab import FABTargeted
from .model_checks import check_model
from .network import Network
from .square import Square
from .statistics import norm_layers, statistics_kept
from .steps import check_norm

VERSIONS = ("standard",)
RUNS = (1, 2, 4)  # neighbouring batches that a part may be handed as one


@dataclass
class AutoAttackResult:
    """x_adv: like x, the first adversary found, x where none was; broken_by: int64 [N], 0 misclassified at x, k broken
    by part k of `parts` (from 1), -1 robust; seconds: of each part; warnings: what to be wary of, as sentences."""

    x_adv: torch.Tensor
    broken_by: torch.Tensor
    parts: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def accuracy_after(self) -> dict[str, float]:
        """Accuracy in [0, 1] at x ("clean") and after each part."""
        broken = self.broken_by.cpu()
        return {name: 1 - ((broken >= 0) & (broken <= k)).double().mean().item()
                for k, name in enumerate(["clean", *self.parts])}


class AutoAttack:
    """The cascade of standard AutoAttack.

    eps: radius in pixel units; norm: "Linf" or "L2"; version: "standard", the only one; batch_size: samples that are
    attacked at once; survivors of different batches share the later ones. With C < 10 classes there are C - 1 targets.
    The targeted DLR loss needs 4 classes: with 3, APGD on the untargeted DLR loss takes the place of APGD-T; with 2,
    for which no DLR loss is defined, APGD-T is left out. Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, norm: str = "Linf", version: str = "standard", batch_size: int = 250):
        self.eps = positive(eps, "eps")
        if version not in VERSIONS:
            raise UserError(f'version must be "standard", got {version!r}; the versions "plus" and "rand" of the '
                            "reference code are not here")
        self.norm, self.version = check_norm(norm), version
        self.batch_size = at_least_one(batch_size, "batch_size")

    @property
    def settings(self) -> dict:
        """What a report should say about this attack; the parts as they are for ten classes or more."""
        return {"eps": self.eps, "norm": self.norm, "version": self.version,
                "parts": {name: attack.settings for name, attack in self.parts(10).items()}}

    def parts(self, classes: int) -> dict:
        """The attacks in their order, by name, for a model with so many classes. Raises UserError for one class."""
        if classes < 2:
            raise UserError("AutoAttack needs a model with 2 classes or more")
        eps, norm, targets = self.eps, self.norm, min(9, classes - 1)
        parts: dict[str, APGD | APGDTargeted | FABTargeted | Square] = {
            "apgd-ce": APGD(eps, loss="ce", steps=100, restarts=1, rho=0.75, norm=norm)}
        if classes >= 4:
            parts["apgd-t"] = APGDTargeted(eps, steps=100, restarts=1, targets=targets, norm=norm)
        elif classes == 3:
            parts["apgd-dlr"] = APGD(eps, loss="dlr", steps=100, restarts=1, rho=0.75, norm=norm)
        parts["fab-t"] = FABTargeted(eps, steps=100, restarts=1, targets=targets, norm=norm)
        parts["square"] = Square(eps, queries=5000, restarts=1, p_init=0.8, norm=norm)
        return parts

    def __call__(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
                 rng: torch.Tensor | None = None, sample_offset: int = 0) -> torch.Tensor:
        """x_adv of `run`, like x, within eps of x and in [0, 1]; the arguments and the errors are those of `run`.

        model: images -> logits [N, classes]; x: float images [N, C, H, W] in [0, 1]; y: int64 labels [N]. Raises
        UserError.
        """
        return self.run(model, x, y, rng, sample_offset).x_adv

    def run(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
            rng: torch.Tensor | None = None, sample_offset: int = 0) -> AutoAttackResult:
        """The cascade on the samples that are classified correctly, and which part broke which.

        model: images -> logits [N, classes], or a `Network` of it; x: float images [N, C, H, W] in [0, 1], a whole data
        set if it fits the device; y: int64 labels [N]; rng: int64 [2] (seed, step) on x's device, None draws a seed
        from torch's default generator; sample_offset: index of the first sample. Results depend neither on batch_size
        nor on how the data set is cut. The model stays in its mode; evaluate in eval mode. Raises UserError for other
        inputs or a model that returns no logits [N, C].
        """
        check_batch(x, y)
        x, rng, network = x.detach(), resolve_rng(rng, x.device), Network(model)
        with statistics_kept(norm_layers(network.model)):
            wrong, classes = self._clean(network, x, y)
            attacks = self.parts(classes)
            result = AutoAttackResult(x.clone(), torch.where(wrong, 0, -1), list(attacks))
            result.warnings += self._about_model(network.model, x[:self.batch_size], y[:self.batch_size])
            result.warnings += _few_classes(classes)
            for number, (name, attack) in enumerate(attacks.items(), start=1):
                start = time.perf_counter()
                for span in self._spans(result.broken_by):
                    self._attack(attack, number, network, x, y, span, rng, sample_offset, result)
                result.seconds[name] = time.perf_counter() - start
        result.warnings += check_square(result.accuracy_after)
        return result

    def _about_model(self, model, x, y) -> list[str]:
        return check_model(model, x, y)

    def _clean(self, network, x, y) -> tuple[torch.Tensor, int]:
        """(bool [N], whether the samples are misclassified at x; the number of classes)."""
        wrong = []
        for images, labels in zip(x.split(self.batch_size), y.split(self.batch_size), strict=True):
            logits = network.logits(images)
            check_logits(logits, labels)
            wrong.append(logits.argmax(1) != labels)
        return torch.cat(wrong), logits.shape[1]

    def _attack(self, attack, number, network, x, y, span, rng, sample_offset, result) -> None:
        """One part on the survivors in a run of neighbouring samples.

        The samples in between get a wrong label. As misclassified ones they are not attacked, while every survivor
        keeps its index, and so its random numbers.
        """
        alive, images = result.broken_by[span] < 0, x[span]
        predicted = network.logits(images).argmax(1)
        labels = torch.where(alive, y[span], torch.where(predicted == 0, 1, 0))
        found = attack(network, images, labels, rng=rng, sample_offset=sample_offset + span.start)
        broken = alive & (network.logits(found).argmax(1) != y[span])
        result.broken_by[span][broken] = number
        result.x_adv[span][broken] = found[broken]

    def _spans(self, broken_by: torch.Tensor) -> Iterator[slice]:
        """Runs of 1, 2 or 4 neighbouring batches with batch_size survivors at most in all, where several fit.

        Of few lengths, so that the batches of the attacks are of few sizes: each size is recorded as a graph of its
        own on a GPU.
        """
        left = torch.stack([(part < 0).sum() for part in broken_by.split(self.batch_size)]).tolist()
        first = 0
        while first < len(left):
            length = max(n for n in RUNS if n == 1 or sum(left[first:first + n]) <= self.batch_size)
            if any(left[first:first + length]):
                yield slice(first * self.batch_size, min((first + length) * self.batch_size, len(broken_by)))
            first += length


def _few_classes(classes: int) -> list[str]:
    if classes >= 4:
        return []
    instead = "APGD on the untargeted DLR loss ran in its place" if classes == 3 else "it was left out"
    return [f"APGD-T needs 4 classes and the model has {classes}: {instead}; this is not the standard AutoAttack"]
