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
    tape.tangent(point, u)                  carry u = dphi/dg of a recorded backward on to the weights
    tape.local(point, function, weight)     value of a user's differentiable penalty, carried on likewise
    tape.backward(dlogits, weights=True)    add the weight gradients to p.grad
    tape.differentiable(loss, dlogits)      the same, deferred to loss.backward()
"""

from __future__ import annotations

import dataclasses

import torch

from ..attacks.ascend import ascend
from ..attacks.checks import check_batch, check_logits
from ..attacks.directions import ascend_ce, ascend_kl, probabilities
from ..objectives import Objective
from ..objectives.penalties import LocalPenalty
from ..ops.rng import resolve_rng


@dataclasses.dataclass
class Prepared:
    """A step up to its last pass: loss (0-d), its parts, and what the reverse pass starts from."""

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    dlogits: dict[str, torch.Tensor]
    tape: object

    def accumulate(self) -> None:
        """Add the loss's gradient to the parameters' .grad."""
        self.tape.backward(self.dlogits, weights=True)


@torch.enable_grad()
def prepare(objective: Objective, view, x: torch.Tensor, y: torch.Tensor, *, ramp=1.0, rng: torch.Tensor | None = None,
            sample_offset: int = 0) -> Prepared:
    """Everything but the reverse pass.

    x: float images [N, C, H, W] in [0, 1]; y: int64 [N]; ramp: number or 0-d tensor on the device; rng: int64 [2]
    (seed, step), None draws a seed; sample_offset: index of the first sample within the step's whole batch, so that
    several processes draw what one would.
    """
    check_batch(x, y)
    view.start()
    x, rng = x.detach(), resolve_rng(rng, x.device)
    images = {"x": x}
    if objective.crafting(ramp) is not None:
        images["adv"] = craft(objective, view, x, y, ramp=ramp, rng=rng, sample_offset=sample_offset)
    penalty = objective.penalty(ramp)
    tape = view.forward({point: images[point] for point in objective.points}, wrt=(penalty.point,) if penalty else ())
    for logits in tape.logits.values():
        check_logits(logits, y)
    loss, terms, dlogits = objective.head(tape.logits, y, ramp)
    if penalty is not None:
        value = _apply(penalty, tape, y, rng, sample_offset)
        loss, terms = loss + penalty.weight * value, {**terms, penalty.term: value}
    return Prepared(loss, {"loss": loss, **terms}, dlogits, tape)


def craft(objective: Objective, view, x: torch.Tensor, y: torch.Tensor, *, ramp, rng: torch.Tensor,
          sample_offset: int = 0) -> torch.Tensor:
    """x': like x, within eps of it and in [0, 1]; running statistics and .grad stay as they were."""
    how = objective.crafting(ramp)
    with view.crafting():
        clean = probabilities(_logits(view, x, y)) if how.ascends == "kl" else None

        def gradient(x_adv: torch.Tensor) -> torch.Tensor:
            tape = view.forward({"adv": x_adv}, wrt=("adv",))
            logits = tape.logits["adv"]
            check_logits(logits, y)
            direction = ascend_ce(logits, y) if clean is None else ascend_kl(logits, clean)
            return tape.backward({"adv": direction}, weights=False)["adv"]

        return ascend(x, gradient, how.eps, how.step_size, how.steps, rng, sample_offset=sample_offset)


def _logits(view, x, y):
    logits = view.forward({"x": x}).logits["x"]
    check_logits(logits, y)
    return logits


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
