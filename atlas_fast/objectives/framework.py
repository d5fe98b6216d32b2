"""The framework of the paper's section 4: an adversary, a local term at one point, a global term that ties two points.

    loss = mean CE(p)  +  alpha ||J(p)||_F^2  +  beta mean KL(base || other)           p, base, other in {x, x'}

An objective is data and small functions of logits; it never calls a layer. How a step is executed is the engine's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from ..attacks.ascend import default_step_size
from ..attacks.checks import at_least_one, non_negative, positive
from ..errors import UserError
from . import heads
from .input_gradients import AlignmentPenalty, LinearityPenalty
from .penalties import JacobianPenalty, LocalPenalty

_CHOICES = {"adversary": (None, "ce", "kl", "ce+nuclear", "linearity"), "ce_at": ("x", "adv"),
            "jacobian_at": (None, "x", "adv", "noise"), "kl": (None, *heads.KL_POINTS), "ce": ("plain", "boosted"),
            "gradients": (None, "alignment", "linearity"), "start": ("uniform", "zero", "signs"),
            "ramps": (True, False, "eps", "weights")}


@dataclasses.dataclass(frozen=True)
class Crafting:
    """How x' is made: the loss that it ascends, radius of the ball that it is projected on (1, the images' whole range,
    where it is not), step size and number of sign steps, start ("uniform", "zero" or "signs") and its radius, the
    weight of the nuclear norm in what "ce+nuclear" ascends; tau, omega: of the early stop, tau None: without one."""

    ascends: str
    eps: float | torch.Tensor
    step_size: float | torch.Tensor
    steps: int
    start: str
    start_radius: float | torch.Tensor
    weight: float | torch.Tensor
    tau: int | None = None
    omega: float | torch.Tensor = 0.0


@dataclasses.dataclass(frozen=True)
class Objective:
    """One row of the table, callable as `loss = objective(model, x, y)`.

    adversary: loss that x' ascends, None (no x'), "ce", "kl" (KL(p(x)||p(x')), TRADES), "ce+nuclear" (CE and, in every
    second training step or, of several sign steps, in the first, third, ..., beta times the nuclear norm; NuAT) or
    "linearity" (|l(x') - l(x) - (x' - x) . grad l(x)|, LLR);
    ce_at, jacobian_at: the point ("x" or "adv") of the cross-entropy and of the local penalty (None: no penalty);
    kl: the global term, "adv||clean" = KL(p(x')||p(x)), "clean||adv" = KL(p(x)||p(x')), "misclassified" = the latter
    times 1 - p_y(x), "nuclear" = ||f(x') - f(x)||_* / N, or None;
    eps, step_size: pixel units, images in [0, 1]; step_size None: 1.25 eps for one step, 2.5 eps / steps for more;
    steps: sign steps of the adversary, 0 exactly where there is none;
    alpha, beta: weights of the penalty and of the KL; a weight of 0 leaves its term and its cost out;
    num_projections: random projections per sample in the estimate of ||J||_F^2;
    label_smoothing: of the cross-entropy in the loss (adversaries ascend the plain one);
    tau, omega: a sample of x' stops tau steps after it was misclassified, and steps are shaken by omega N(0, 1) (Zhang
    et al. 2020, see attacks/early_stop.py); None: all steps are taken;
    ramps: what a step's `ramp` multiplies: True: eps, step size, alpha and beta (end of the paper's section 5), "eps":
    eps and step size, "weights": alpha and beta, False: nothing;
    ce: "plain" or "boosted" (MART: - log p_y - log(1 - the largest wrong p));
    gradients: penalty of the cross-entropy's input gradients instead of the Jacobian's: "alignment" (GradAlign; at the
    point "noise", uniform in the eps-ball around x) or "linearity" (LLR; at "x"; alpha weighs the deviation from
    linearity at x', beta the slope along x' - x);
    start, start_radius: x' starts at x ("zero"), or uniformly in ("uniform") or at a random corner of ("signs") the
    ball of this many eps around x; projected: whether x' is kept in the eps-ball (in [0, 1] it always is);
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
    tau: int | None = None
    omega: float = 0.0
    ramps: bool | str = True
    ce: str = "plain"
    gradients: str | None = None
    start: str = "uniform"
    start_radius: float = 1.0
    projected: bool = True
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
        self._check_gradients()
        if self.local is not None and self.jacobian_at is None:
            raise UserError(f"{self.name} has no local penalty that `local` could replace; set jacobian_at")
        if self.metric is not None and self.kl is None:
            raise UserError(f"{self.name} has no KL term that `metric` could replace; set kl")

    def _check_without_adversary(self):
        if self.steps != 0:
            raise UserError(f"{self.name} has no adversary: steps must be 0, got {self.steps!r}")
        if self.tau is not None:
            raise UserError(f"{self.name} has no adversary that could stop early: leave tau away")
        if self.ce_at == "adv" or self.jacobian_at == "adv" or self.kl is not None:
            raise UserError(f"{self.name} has a term at the adversary but none is made; set adversary to 'ce' or 'kl'")

    def _check_adversary(self):
        if self.steps == 0 and not isinstance(self.steps, bool):
            raise UserError(f"{self.name} needs an adversary: steps must be at least 1 (steps 0 is for jac)")
        at_least_one(self.steps, "steps")
        positive(self.eps, "eps")
        if self.step_size is not None:
            positive(self.step_size, "step_size")
        non_negative(self.start_radius, "start_radius")
        if self.tau is not None and (isinstance(self.tau, bool) or not isinstance(self.tau, int) or self.tau < 0):
            raise UserError(f"tau must be a whole number of at least 0, got {self.tau!r}")
        if non_negative(self.omega, "omega") > 0 and self.tau is None:
            raise UserError("omega shakes the steps of an adversary that stops early: give tau as well")
        if self.tau is not None and self.adversary == "linearity":
            raise UserError("tau stops an adversary at a misclassification, which llr's does not ascend")

    def _check_gradients(self):
        needs = {None: ("x", "adv", None), "alignment": ("noise",), "linearity": ("x",)}[self.gradients]
        if self.jacobian_at not in needs or (self.gradients and self.adversary is None):
            raise UserError(f"gradients={self.gradients!r} needs an adversary and jacobian_at one of {needs}, "
                            f"got {self.jacobian_at!r}")
        if self.gradients == "alignment" and self.start != "zero":
            raise UserError("gradients='alignment' needs start='zero': the adversary's first gradient is that at x")
        if self.gradients is not None and self.local is not None:
            raise UserError(f"give `local` or gradients={self.gradients!r}, not both")

    def replace(self, **changes: Any) -> Objective:
        """A copy with some fields changed, e.g. `atlas(...).replace(metric=my_metric)`."""
        return dataclasses.replace(self, **changes)

    def __call__(self, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, ramp: float | torch.Tensor = 1.0,
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

    def scaled(self, value: float, ramp, kind: str):
        """value * ramp where this method ramps values of this kind, "eps" or "weights"."""
        return value * ramp if self.ramps is True or self.ramps == kind else value

    @property
    def penalised_point(self) -> str | None:
        """Point of the local penalty; None where there is none or its weight is 0."""
        weighs = self.alpha > 0 or (self.gradients == "linearity" and self.beta > 0)
        return self.jacobian_at if weighs else None

    @property
    def kl_points(self) -> tuple[str, ...]:
        """(base, other) of the global term; empty where there is none or its weight is 0."""
        return heads.KL_POINTS[self.kl] if self.kl is not None and self.beta > 0 else ()

    @property
    def points(self) -> tuple[str, ...]:
        """Points that need a training pass, in the order in which BatchNorm sees them: x', x, noise."""
        needed = {self.ce_at, self.penalised_point, *self.kl_points}
        if self.gradients == "linearity" and self.penalised_point:
            needed.add("adv")
        return tuple(point for point in ("adv", "x", "noise") if point in needed)

    def crafting(self, ramp: float | torch.Tensor = 1.0) -> Crafting | None:
        """How to make x'; None where no term needs it."""
        if "adv" not in self.points:
            return None
        assert self.adversary is not None and self.eps is not None  # such points are refused without an adversary
        step_size = default_step_size(self.eps, self.steps) if self.step_size is None else self.step_size
        eps = self.noise_radius(ramp)
        return Crafting(self.adversary, eps if self.projected else 1.0, self.scaled(step_size, ramp, "eps"), self.steps,
                        self.start, self.start_radius * eps, self.scaled(self.beta, ramp, "weights"), self.tau,
                        self.scaled(self.omega, ramp, "eps") if self.omega else 0.0)

    def noise_radius(self, ramp: float | torch.Tensor = 1.0):
        """Half the width of the uniform noise at the point "noise": eps."""
        assert self.eps is not None  # asked for where there is an adversary
        return self.scaled(self.eps, ramp, "eps")

    def head(self, logits: dict[str, torch.Tensor], y: torch.Tensor, ramp: float | torch.Tensor = 1.0, ranks=None):
        """(loss, terms, {point: dlogits}) of cross-entropy and global term; logits: {point: [N, C]}, detached. ranks:
        `engine.Ranks` that hold equal parts of the batch; the mean of their losses is that of the whole batch."""
        return heads.head(self, logits, y, self.scaled(self.beta, ramp, "weights"), ranks)

    def penalty(self, ramp: float | torch.Tensor = 1.0) -> (JacobianPenalty | LocalPenalty | AlignmentPenalty
                                                            | LinearityPenalty | None):
        """The local penalty with its weight; None where there is none."""
        if self.penalised_point is None:
            return None
        weight = self.scaled(self.alpha, ramp, "weights")
        if self.gradients == "alignment":
            return AlignmentPenalty(self.penalised_point, weight)
        if self.gradients == "linearity":
            return LinearityPenalty(self.penalised_point, weight, self.scaled(self.beta, ramp, "weights"))
        if self.local is not None:
            return LocalPenalty(self.penalised_point, weight, self.local)
        return JacobianPenalty(self.penalised_point, weight, self.num_projections)
