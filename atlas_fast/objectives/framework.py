"""The framework of the paper's section 4: an adversary, a local term at one point, a global term that ties two points.

    loss = mean CE(p)  +  alpha ||J(p)||_F^2  +  beta mean KL(base || other)           p, base, other in {x, x'}

An objective is data and small functions of logits; it never calls a layer. How a step is executed is the engine's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from ..attacks.ascend import default_step_size
from ..attacks.checks import at_least_one, non_negative, positive
from ..errors import UserError
from . import heads
from .penalties import JacobianPenalty, LocalPenalty

_CHOICES = {"adversary": (None, "ce", "kl"), "ce_at": ("x", "adv"), "jacobian_at": (None, "x", "adv"),
            "kl": (None, *heads.KL_POINTS)}


@dataclasses.dataclass(frozen=True)
class Crafting:
    """How x' is made: the loss that it ascends ("ce" or "kl"), and eps, step size and number of sign steps."""

    ascends: str
    eps: float | torch.Tensor
    step_size: float | torch.Tensor
    steps: int


@dataclasses.dataclass(frozen=True)
class Objective:
    """One row of the table, callable as `loss = objective(model, x, y)`.

    adversary: loss that x' ascends, None (no x'), "ce" or "kl" (KL(p(x)||p(x')), TRADES);
    ce_at, jacobian_at: the point ("x" or "adv") of the cross-entropy and of the Jacobian penalty (None: no penalty);
    kl: "adv||clean" = KL(p(x')||p(x)), "clean||adv" = KL(p(x)||p(x')), or None;
    eps, step_size: pixel units, images in [0, 1]; step_size None: 1.25 eps for one step, 2.5 eps / steps for more;
    steps: sign steps of the adversary, 0 exactly where there is none;
    alpha, beta: weights of the penalty and of the KL; a weight of 0 leaves its term and its cost out;
    num_projections: random projections per sample in the estimate of ||J||_F^2;
    label_smoothing: of the cross-entropy in the loss (adversaries ascend the plain one);
    ramps: whether a step's `ramp` multiplies eps, step size, alpha and beta (end of the paper's section 5);
    local: (logits, x, y) -> 0-d tensor instead of the Jacobian penalty, with logits = model(x) in the graph of x;
    metric: (logits_base, logits_other) -> 0-d tensor instead of the KL.
    Raises UserError for values or combinations that make no sense.
    """

    name: str
    adversary: str | None = None
    ce_at: str = "x"
    jacobian_at: str | None = None
    kl: str | None = None
    eps: float | None = None
    steps: int = 0
    step_size: float | None = None
    alpha: float = 0.0
    beta: float = 0.0
    num_projections: int = 1
    label_smoothing: float = 0.0
    ramps: bool = True
    local: Callable | None = None
    metric: Callable | None = None
    terms: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise UserError(f"{field} must be one of {choices}, got {getattr(self, field)!r}")
        non_negative(self.alpha, "alpha")
        non_negative(self.beta, "beta")
        at_least_one(self.num_projections, "num_projections")
        if not non_negative(self.label_smoothing, "label_smoothing") < 1:
            raise UserError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.adversary is None:
            self._check_without_adversary()
        else:
            self._check_adversary()
        if self.local is not None and self.jacobian_at is None:
            raise UserError(f"{self.name} has no local penalty that `local` could replace; set jacobian_at")
        if self.metric is not None and self.kl is None:
            raise UserError(f"{self.name} has no KL term that `metric` could replace; set kl")

    def _check_without_adversary(self):
        if self.steps != 0:
            raise UserError(f"{self.name} has no adversary: steps must be 0, got {self.steps!r}")
        if self.ce_at == "adv" or self.jacobian_at == "adv" or self.kl is not None:
            raise UserError(f"{self.name} has a term at the adversary but none is made; set adversary to 'ce' or 'kl'")

    def _check_adversary(self):
        if self.steps == 0 and not isinstance(self.steps, bool):
            raise UserError(f"{self.name} needs an adversary: steps must be at least 1 (steps 0 is for jac)")
        at_least_one(self.steps, "steps")
        positive(self.eps, "eps")
        if self.step_size is not None:
            positive(self.step_size, "step_size")

    def replace(self, **changes) -> Objective:
        """A copy with some fields changed, e.g. `atlas(...).replace(metric=my_metric)`."""
        return dataclasses.replace(self, **changes)

    def __call__(self, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, ramp=1.0,
                 rng: torch.Tensor | None = None, bn_mode: str = "train") -> torch.Tensor:
        """The loss, 0-d; `.backward()` gives the parameters' gradients; `terms` holds its parts until the next call.

        model: images -> logits [N, C], any nn.Module; x: float images [N, C, H, W] in [0, 1]; y: int64 labels [N];
        ramp: eps / eps_final, a number or a 0-d tensor on the device; rng: int64 [2] (seed, step), None draws a seed
        from torch's default generator; bn_mode: BatchNorm while crafting, "train" or "eval". The model stays in its
        mode. Under torch.no_grad() the value is the same and holds no graph. Raises UserError for unusable inputs.
        """
        from ..engine import autograd_view, program  # the engine lies above: it runs objectives, this is a short cut

        view = autograd_view.AutogradView(model, bn_mode=bn_mode)
        prepared = program.prepare(self, view, x, y, ramp=ramp, rng=rng)
        self.terms.clear()
        self.terms.update(prepared.terms)
        if not torch.is_grad_enabled():
            return prepared.loss
        return prepared.tape.differentiable(prepared.loss, prepared.dlogits)

    # What the engine asks for.

    def scaled(self, value: float, ramp):
        """value * ramp where this method ramps."""
        return value * ramp if self.ramps else value

    @property
    def penalised_point(self) -> str | None:
        """Point of the local penalty; None where there is none or its weight is 0."""
        return self.jacobian_at if self.alpha > 0 else None

    @property
    def kl_points(self) -> tuple[str, ...]:
        """(base, other) of the global term; empty where there is none or its weight is 0."""
        return heads.KL_POINTS[self.kl] if self.kl is not None and self.beta > 0 else ()

    @property
    def points(self) -> tuple[str, ...]:
        """Points that need a training pass, in the order in which BatchNorm sees them: x', then x."""
        needed = {self.ce_at, self.penalised_point, *self.kl_points}
        return tuple(point for point in ("adv", "x") if point in needed)

    def crafting(self, ramp=1.0) -> Crafting | None:
        """How to make x'; None where no term needs it."""
        if "adv" not in self.points:
            return None
        step_size = default_step_size(self.eps, self.steps) if self.step_size is None else self.step_size
        return Crafting(self.adversary, self.scaled(self.eps, ramp), self.scaled(step_size, ramp), self.steps)

    def head(self, logits: dict[str, torch.Tensor], y: torch.Tensor, ramp=1.0):
        """(loss, terms, {point: dlogits}) of cross-entropy and global term; logits: {point: [N, C]}, detached."""
        run = heads.by_autograd if self.metric is not None and self.kl_points else heads.fused
        return run(self, logits, y, self.scaled(self.beta, ramp))

    def penalty(self, ramp=1.0) -> JacobianPenalty | LocalPenalty | None:
        """The local penalty with its weight; None where there is none."""
        if self.penalised_point is None:
            return None
        weight = self.scaled(self.alpha, ramp)
        if self.local is not None:
            return LocalPenalty(self.penalised_point, weight, self.local)
        return JacobianPenalty(self.penalised_point, weight, self.num_projections)
