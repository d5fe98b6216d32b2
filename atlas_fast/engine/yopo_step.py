"""YOPO-m-n (Zhang et al. 2019a, "You Only Propagate Once", algorithm 1): most sign steps go through one layer only.

With f0 the first layer, x'_1 a random start, and j = 1 .. m:

    p_j = d mean CE(x'_j) / d f0(x'_j)                                     a full pass, its weight gradients are added
    x' <- clip(Pi_eps(x' + step sign(d <p_j, f0(x')> / dx')), 0, 1)        n times from x'_j; then x'_{j+1} = x'
    add d <p_j, f0(x'_{j+1})> / d theta_0                                  the first layer's gradient at the new x'

and one step of the optimiser by the sum (not the mean) over j, as in the authors' code.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from .. import ops
from ..attacks.checks import at_least_one, check_batch, check_logits, check_output
from ..attacks.statistics import norm_layers, statistics_kept
from ..errors import UserError
from ..objectives import Objective
from .first_layer import FirstLayer
from .parts import Part, mean_terms
from .step_checks import only_ce_at_adversary
from .training_step import TrainingStep


class YopoStep(TrainingStep):
    """A step with `passes` full passes (m) and, after each, the objective's `steps` sign steps on the first layer (n).

    model: any nn.Module in which the images reach the rest through the first layer with parameters alone (the first
    call checks that). objective: `objectives.adv`, of which eps, step_size, steps, label_smoothing and ramp count;
    options: as of TrainingStep, without awp; engine "auto" or "autograd". Terms are means over the m passes. Raises
    UserError for settings and models that cannot work.
    """

    def __init__(self, model: torch.nn.Module, objective: Objective, optimizer: torch.optim.Optimizer,
                 passes: int = 5, engine: str = "auto", **options: Any):
        if options.get("awp") is not None:
            raise UserError("awp needs an adversary that is made before the weights' gradient, and YOPO makes none")
        if options.get("checkpoint_activations"):
            raise UserError("checkpoint_activations does not reach YOPO's passes, which end at one layer; accumulate "
                            "saves memory there")
        reason = "YOPO holds on to the output of one layer, which the sweeps do not show"
        if engine == "sweeps":
            raise UserError(f"engine='sweeps' cannot run this: {reason}; use engine='auto' or 'autograd'")
        super().__init__(model, only_ce_at_adversary(objective, "YOPO"), optimizer,
                         engine="autograd" if engine == "auto" else engine, **options)
        self.engine_reason = reason
        self.passes = at_least_one(passes, "passes")
        self._norm_layers = norm_layers(model)
        self._first: FirstLayer | None = None

    @property
    def _layer(self) -> FirstLayer:
        assert self._first is not None  # found by the first step
        return self._first

    @torch.enable_grad()
    def _accumulate(self, x, y) -> dict[str, torch.Tensor]:
        check_batch(x, y)
        parts = self._parts.of(x, y, self._offset(x))
        if self._first is None:
            # A resumed run looks again, and must not draw another dropout for it than the run without interruption.
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                with statistics_kept(self._norm_layers), torch.no_grad():
                    self._first = FirstLayer(self.model, parts[0].x)
                self._check_way(parts[0].x)
        return mean_terms([self._all_passes(part) for part in parts])

    def _all_passes(self, part: Part) -> dict[str, torch.Tensor]:
        how, terms = self.objective.crafting(self._ramp), list[dict[str, torch.Tensor]]()
        assert how is not None  # checked by only_ce_at_adversary
        x_adv = ops.random_start(part.x, how.eps, self.rng, sample_offset=part.offset)
        for _ in range(self.passes):
            values, p = self._full(x_adv, part.y)
            terms.append(values)
            x_adv = self._ascend(part.x, x_adv, p, how)
            self._first_again(x_adv, p)
        return mean_terms(terms)

    def _full(self, x_adv, y) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Terms, and p; weight gradients are added to .grad."""
        inputs = [p for p in self.model.parameters() if p.requires_grad]
        if not self._layer.parameters:  # the way back would end after the first layer
            inputs.append(x_adv := x_adv.requires_grad_())
        with self._layer.watched() as gradients, self._autocast(), self.view.sharing():
            logits = self.model(x_adv)
        check_logits(logits, y)
        detached = logits.detach() if self._scale is None else logits.detach().float()
        loss, terms, dlogits = self.objective.head({"adv": detached}, y, self._ramp)
        seed = dlogits["adv"] if self._scale is None else (dlogits["adv"] * self._scale.value).to(logits.dtype)
        torch.autograd.backward(logits, seed, inputs=inputs)  # p carries the scale on to what follows from it
        return {"loss": loss, **terms}, gradients[0]

    def _ascend(self, x, x_adv, p, how) -> torch.Tensor:
        for _ in range(how.steps):
            images = x_adv.detach().requires_grad_()
            (g,) = torch.autograd.grad(self._first_output(images), images, p)
            x_adv = ops.pgd_step(x, x_adv, g, how.eps, how.step_size)
        return x_adv

    def _first_again(self, x_adv, p) -> None:
        parameters = self._layer.parameters
        if parameters:
            torch.autograd.backward(self._first_output(x_adv), p, inputs=parameters)

    def _first_output(self, x) -> torch.Tensor:
        with statistics_kept(self._norm_layers, self.view.bn_mode), self._autocast(), self.view.sharing():
            return self._layer(x)

    def _autocast(self):
        return torch.autocast(self.device.type, self.amp) if self.amp else contextlib.nullcontext()

    def _check_way(self, x) -> None:
        """The logits' gradient in x must be the one that comes through the first layer."""
        images = x.detach().requires_grad_()
        with statistics_kept(self._norm_layers), self._layer.watched() as gradients:
            logits = self.model(images)
            check_output(logits, len(x))
            (whole,) = torch.autograd.grad(logits, images, torch.ones_like(logits).cumsum(1), allow_unused=True)
            if whole is None or not gradients:
                raise UserError("the model's output does not depend on its input differentiably")
            (through,) = torch.autograd.grad(self._layer(images), images, gradients[0])
        if not torch.allclose(whole, through, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
            raise UserError(f"YOPO needs images that reach the network through its first layer alone, and in "
                            f"{type(self.model).__name__} they go past {type(self._layer.module).__name__} as well")
