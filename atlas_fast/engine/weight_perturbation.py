"""Adversarial weight perturbation, AWP (Wu et al. 2020): the gradient is taken at the worst weights nearby.

    v = gamma ||w|| g / ||g||,   g = dL/dw at (w, x')              per parameter with more than one dimension
    w <- w - lr dL/dw at (w + v, x')                              x' was made at w, for both

Norms are Euclidean over the whole parameter. The authors' code takes g's direction from one step of SGD on a copy of
the network; its learning rate cancels. They also let the optimiser step before v is taken away, which shrinks w + v
where weight decay is on; here the weights are w again, bit for bit, before it steps.
"""

from __future__ import annotations

import torch

from ..attacks.checks import positive

_TINY = 1e-20  # keeps a gradient of zero from being divided by zero (the authors' value)


class WeightPerturbation:
    """gamma: size of v relative to w, e.g. 0.01 (adversarial training) or 0.005 (TRADES). Raises UserError if <= 0."""

    def __init__(self, model: torch.nn.Module, gamma: float):
        self.gamma = positive(gamma, "awp")
        self._model = model
        self._moved: list[torch.Tensor] = []
        self._kept: list[torch.Tensor] = []

    @torch.no_grad()
    def perturb(self) -> None:
        """w + v, from the gradients in .grad; w is kept."""
        moved: list[torch.Tensor] = [p for p in self._model.parameters() if p.dim() > 1 and p.grad is not None]
        if len(moved) != len(self._moved) or any(a is not b for a, b in zip(moved, self._moved, strict=True)):
            self._moved, self._kept = moved, [torch.empty_like(p) for p in moved]
        if not moved:
            return
        torch._foreach_copy_(self._kept, moved)
        gradients = [p.grad for p in moved if p.grad is not None]
        ratios = torch.stack(torch._foreach_norm(moved)) / (torch.stack(torch._foreach_norm(gradients)) + _TINY)
        torch._foreach_add_(moved, torch._foreach_mul(gradients, list((self.gamma * ratios).unbind())))

    @torch.no_grad()
    def restore(self) -> None:
        """w, bit for bit."""
        if self._moved:
            torch._foreach_copy_(self._moved, self._kept)
