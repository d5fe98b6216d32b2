"""The step program: runs an objective on a view of a network. The only place that knows the order of a step.

    craft     x' by sign steps; passes that leave no trace
    forward   the points that the objective needs, x' before x
    head      loss and logit gradients, from the logits alone
    penalty   g = v^T J at one point (recorded backward), u = dphi/dg, carried on as a tangent
    reverse   weight gradients of everything, in one pass (left to the caller)

A view offers (see `autograd_view.AutogradView`)
    view.start()                            the weights are those of a new step
    view.crafting()                         context: running statistics stay
    view.forward({point: images}, wrt=...)  -> tape; wrt: points whose input gradient will be asked
    tape.logits                             {point: [N, C]}, detached
    tape.backward(cotangents, weights=False, record=False)  -> {point: input gradient}; record: a tangent may follow
    tape.tangent(point, u)                  carry u = dphi/dg of a recorded backward on to the weights; J u where its
                                            cotangent requires grad (else anything)
    tape.local(point, function, weight)     value of a user's differentiable penalty, carried on likewise
    tape.backward(dlogits, weights=True)    add the weight gradients to p.grad; images=True: and return the images'
    tape.differentiable(loss, dlogits)      the same, deferred to loss.backward()
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from .. import ops
from ..attacks import starts
from ..attacks.ascend import ascend
from ..attacks.checks import check_batch, check_logits
from ..attacks.directions import ascend_ce
from ..attacks.early_stop import EarlyStop
from ..objectives import Objective
from ..objectives.input_gradients import Seen, curvature
from ..objectives.penalties import JacobianPenalty, LocalPenalty
from ..ops.rng import resolve_rng
from . import ascents
from .ranks import Ranks


@dataclasses.dataclass
class Prepared:
    """A step up to its last pass: loss (0-d), its parts, and what the reverse pass starts from."""

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    dlogits: dict[str, torch.Tensor]
    tape: Any

    def accumulate(self) -> None:
        """Add the loss's gradient to the parameters' .grad."""
        self.tape.backward(self.dlogits, weights=True)


@torch.enable_grad()
def prepare(objective: Objective, view, x: torch.Tensor, y: torch.Tensor, *, ramp=1.0, rng: torch.Tensor | None = None,
            sample_offset: int = 0, crafted: tuple[torch.Tensor, torch.Tensor] | None = None,
            ranks: Ranks | None = None) -> Prepared:
    """Everything but the reverse pass.

    x: float images [N, C, H, W] in [0, 1]; y: int64 [N]; ramp: number or 0-d tensor on the device; rng: int64 [2]
    (seed, step), None draws a seed; sample_offset: index of the first sample within the step's whole batch, so that
    several processes draw what one would; crafted: what `craft_with_gradient` gave, where x' is made already; ranks:
    the processes that hold equal parts of the batch, where a loss ties its samples together; None: this is all of it.
    """
    check_batch(x, y)
    view.start()
    x, rng = x.detach(), resolve_rng(rng, x.device)
    images, start_gradient = {"x": x}, None
    if crafted is None and objective.crafting(ramp) is not None:
        crafted = craft_with_gradient(objective, view, x, y, ramp=ramp, rng=rng, sample_offset=sample_offset,
                                      ranks=ranks)
    if crafted is not None:
        images["adv"], start_gradient = crafted
    if "noise" in objective.points:
        images["noise"] = starts.random_noise(x, objective.noise_radius(ramp), rng, sample_offset)
    penalty = objective.penalty(ramp)
    tape = view.forward({point: images[point] for point in objective.points}, wrt=(penalty.point,) if penalty else ())
    for logits in tape.logits.values():
        check_logits(logits, y)
    loss, terms, dlogits = objective.head(tape.logits, y, ramp, ranks)
    if isinstance(penalty, JacobianPenalty | LocalPenalty):
        value = _apply(penalty, tape, y, rng, sample_offset)
        loss, terms = loss + penalty.weight * value, {**terms, penalty.term: value}
    elif penalty is not None:
        seen = Seen(images, tape.logits, y, start_gradient, ranks)
        value = _apply_to_gradients(penalty, tape, seen, dlogits)
        loss, terms = loss + value.loss, {**terms, **value.terms}
    return Prepared(loss, {"loss": loss, **terms}, dlogits, tape)


def craft(objective: Objective, view, x: torch.Tensor, y: torch.Tensor, *, ramp, rng: torch.Tensor,
          sample_offset: int = 0) -> torch.Tensor:
    """x': like x and in [0, 1], as `objective.crafting` says; running statistics and .grad stay as they were."""
    return craft_with_gradient(objective, view, x, y, ramp=ramp, rng=rng, sample_offset=sample_offset)[0]


def craft_with_gradient(objective: Objective, view, x: torch.Tensor, y: torch.Tensor, *, ramp, rng: torch.Tensor,
                        sample_offset: int = 0, ranks: Ranks | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """x' as of `craft`, and the gradient at its start. ranks: as of `prepare`."""
    how, seen = objective.crafting(ramp), list[torch.Tensor]()
    assert how is not None, f"{objective.name} has no adversary"
    with view.crafting():
        early = None if how.tau is None else EarlyStop(y, how.tau, how.omega, rng, sample_offset)
        climb = ascents.gradient(how, view, x, y, rng, early, ranks)

        def gradient(x_adv):
            g = climb(x_adv)
            if not seen:
                seen.append(g)
            return g

        x_adv = ascend(x, gradient, how.eps, how.step_size, how.steps, rng, sample_offset=sample_offset,
                       start=_start(objective, how, x, rng, sample_offset), early=early)
    return x_adv, seen[0]


def _start(objective, how, x, rng, sample_offset) -> torch.Tensor | None:
    """None: `ascend` makes it, uniformly in the ball on which it projects."""
    if how.start == "zero":
        return x
    if how.start == "signs":
        return starts.random_signs(x, how.start_radius, rng, sample_offset)
    if objective.projected and objective.start_radius == 1:
        return None
    return ops.random_start(x, how.start_radius, rng, sample_offset=sample_offset)


def _apply(penalty, tape, y, rng, sample_offset) -> torch.Tensor:
    point = penalty.point
    if isinstance(penalty, LocalPenalty):
        return tape.local(point, lambda logits, x: penalty.function(logits, x, y), penalty.weight)
    logits = tape.logits[point]
    cotangent = penalty.cotangent(logits, rng, sample_offset)
    g = tape.backward({point: cotangent}, weights=False, record=True)[point]
    value, u = penalty.phi(g, logits.shape[1])
    tape.tangent(point, u)
    return value


def _apply_to_gradients(penalty, tape, seen: Seen, dlogits: dict[str, torch.Tensor]):
    """The penalty of g = d sum l / dx at its point; what reaches the weights through logits is added to dlogits."""
    point, logits = penalty.point, seen.logits[penalty.point]
    cotangent = ascend_ce(logits, seen.y)[None].requires_grad_()
    g = tape.backward({point: cotangent}, weights=False, record=True)[point][0]
    value = penalty.phi(g, seen)
    through = curvature(logits, tape.tangent(point, value.u[None])[0])
    for at, d in (*value.dlogits.items(), (point, through)):
        dlogits[at] = dlogits[at] + d if at in dlogits else d
    return value
