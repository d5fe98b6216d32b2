"""Free adversarial training (Shafahi et al. 2019, algorithm 1): one backward pass serves the weights and the adversary.

    m times for a batch:   x' = clip(x + delta, 0, 1),   (g_w, g) = d mean CE(x') / d(w, x')
                           w <- optimiser(w, g_w),   delta <- clip(delta + step sign(g), -eps, eps)

delta [N, C, H, W] starts at 0 and is never reset: a batch goes on from where the last one left it. The authors step by
eps. Their ImageNet code differentiates through the clip to [0, 1], so that pixels outside of it stay put; algorithm 1,
and so this, takes the gradient at x'.
"""

from __future__ import annotations

from typing import Any

import torch

from ..attacks.checks import at_least_one, check_batch, check_logits
from ..errors import UserError
from ..objectives import Objective
from .parts import mean_terms
from .step_checks import held, only_ce_at_adversary
from .training_step import TrainingStep


class FreeStep(TrainingStep):
    """A step whose call replays the batch `replays` times, with an update of the weights each time.

    objective: `objectives.adv`, of which eps, step_size, label_smoothing and ramp count; options: as of TrainingStep
    (no awp). `delta` is None before the first call. Terms are means over the replays. A replay whose gradient is not
    finite changes neither weights nor delta and is counted. On a CUDA device all replays are one graph, which needs a
    fused optimiser. Raises UserError for settings that cannot work.
    """

    def __init__(self, model: torch.nn.Module, objective: Objective, optimizer: torch.optim.Optimizer,
                 replays: int = 8, **options: Any):
        if options.get("awp") is not None:
            raise UserError("awp needs an adversary that is made before the weights move, and Free makes none")
        super().__init__(model, only_ce_at_adversary(objective, "Free"), optimizer, **options)
        self.replays = at_least_one(replays, "replays")
        self.delta: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._update.optimizer.why_not_capturable is not None:
            self._graph = None  # the updates lie between the passes: a graph holds both or neither
        return super().__call__(x, y)

    @property
    def capture_reason(self) -> str | None:
        reason = self._update.optimizer.why_not_capturable
        return reason if self.device.type == "cuda" and reason is not None else super().capture_reason

    def _whole(self, x, y) -> dict[str, torch.Tensor]:
        check_batch(x, y)
        delta, totals = self._rows(x), dict[str, torch.Tensor]()
        for _ in range(self.replays):
            for name, value in self._replay(x, y, delta).items():
                totals[name] = totals[name] + value if name in totals else value
        self.rng[1].add_(1)
        return {name: value / self.replays for name, value in totals.items()}

    @torch.no_grad()
    def _replay(self, x, y, delta) -> dict[str, torch.Tensor]:
        self._update.start()
        self.view.flat = self._update.flat  # None before the first of all replays
        parts = self._parts.of(x, y, self._offset(x))
        results = [self._pass(part, d) for part, d in zip(parts, delta.chunk(len(parts)), strict=True)]
        terms = mean_terms([terms for terms, _ in results])
        unusable, how = self._finish(terms["loss"]), self.objective.crafting(self._ramp)
        assert how is not None  # checked by only_ce_at_adversary
        for (_, g), d in zip(results, delta.chunk(len(parts)), strict=True):
            moved = (d + how.step_size * g.sign()).clamp_(-how.eps, how.eps)
            d.copy_(moved if unusable is None else torch.where(unusable, d, moved))
        return terms

    def _pass(self, part, delta) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Terms and the images' gradient; weight gradients are added to .grad."""
        self.view.start()
        with torch.enable_grad():
            tape = self.view.forward({"adv": (part.x + delta).clamp_(0, 1)}, wrt=("adv",))
            check_logits(tape.logits["adv"], part.y)
            loss, terms, dlogits = self.objective.head(tape.logits, part.y, self._ramp)
            g = tape.backward(dlogits, weights=True, images=True)["adv"]
        if g is None:
            raise UserError("the model's output does not depend on its input differentiably")
        return {"loss": loss, **terms}, g

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """delta of a batch like x; samples beyond the largest batch so far begin at 0."""
        if self.delta is not None and self.delta.shape[1:] != x.shape[1:]:
            raise UserError(f"Free's perturbation has the shape {list(self.delta.shape[1:])} of the first images, "
                            f"got {list(x.shape[1:])}")
        if self.delta is None or len(self.delta) < len(x):
            delta = torch.zeros_like(x)
            if self.delta is not None:
                delta[:len(self.delta)] = self.delta
            self.delta = delta
        return self.delta[:len(x)]

    def _settings(self, whole: bool) -> tuple:
        return *super()._settings(whole), self.replays, None if self.delta is None else self.delta.data_ptr()

    def state_dict(self) -> dict:
        """That of TrainingStep, and "delta" of all processes, which call this together (None before a step)."""
        delta = None if self.delta is None else self.ranks.gather(self.delta).clone()
        return {**super().state_dict(), "delta": delta}

    def load_state_dict(self, state: dict) -> None:
        held(state, "delta")
        super().load_state_dict(state)
        delta = None if state["delta"] is None else self.ranks.part(state["delta"])
        self.delta = None if delta is None else torch.empty_like(delta, device=self.device).copy_(delta)
