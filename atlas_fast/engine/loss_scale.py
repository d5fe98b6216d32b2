"""Loss scaling: float16 ends at 6e-8 and 65504, so gradients pass through it times a power of two.

With the scale S, N samples and true quantities on the right:

    weight gradients   dlogits' = S dlogits, and the sum of all gradients is divided by S in float32
    crafting           c' = (S / N) c: cotangents of sums over the batch become as large as those of means
    v^T J              v' = s v,  g = g' / s;   u' = (S / s) u,  J u = t' / (S / s);   s = sqrt(S / N)

In the last line the weight gradients are products of an adjoint, times s, and of a tangent, times S / s, so that they
carry S as all others do; the split keeps both within the range. Everything but these passes is float32.

S follows torch.amp.GradScaler: it starts at 2^16, doubles after 2,000 usable steps in a row and halves at an overflow,
on the device. A step with a loss that is not finite, or with an overflow at S = 1, is none that a scale could mend.
"""

from __future__ import annotations

import torch

from ..attacks.checks import check_output
from .ranks import Ranks

FIRST, GROWTH, BACKOFF, INTERVAL, LEAST = 2.0**16, 2.0, 0.5, 2000, 1.0


class LossScale:
    """value: S, 0-d float32 on the device; backoffs: how many steps were left out to halve it, 0-d int64 there.

    Call `start` before a step, `settle` at its end. ranks: who share the step; all decide alike.
    """

    def __init__(self, device: torch.device, ranks: Ranks):
        self._ranks = ranks
        self.value = torch.full((), FIRST, dtype=torch.float32, device=device)
        self.backoffs = torch.zeros((), dtype=torch.int64, device=device)
        self._usable = torch.zeros((), dtype=torch.int64, device=device)  # in a row
        self._overflowed = torch.zeros((), dtype=torch.bool, device=device)

    def start(self) -> None:
        self._overflowed.zero_()

    def checked(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient, or zeros where some of it is not finite: that spoils the step, but no terms of it."""
        largest = torch.linalg.vector_norm(gradient, ord=torch.inf)
        self.note(found := (largest - largest) != 0)
        return torch.where(found, gradient.new_zeros(()), gradient)  # masked_fill would not keep channels-last

    def note(self, overflowed: torch.Tensor) -> None:
        """0-d bool: something that the step needs has overflowed."""
        self._overflowed.logical_or_(overflowed)

    def settle(self, unusable: torch.Tensor, loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next S. unusable: whether a weight gradient is not finite, the same on all ranks.

        Returns whether the step must change nothing, and whether that is nothing that a scale could mend.
        """
        flags = torch.stack([self._overflowed, loss.isfinite().logical_not()]).to(torch.float32)
        early, not_finite = self._ranks.add(flags).gt(0).unbind()
        unusable = unusable | early
        overflow = unusable & (early | ~not_finite) & (self.value > LEAST)
        self._usable.add_(1).mul_(~unusable)
        grows = self._usable >= INTERVAL
        grown = torch.where(torch.isfinite(self.value * GROWTH), self.value * GROWTH, self.value)
        self.value.copy_(torch.where(overflow, self.value * BACKOFF, torch.where(grows, grown, self.value)))
        self._usable.mul_(~grows)
        self.backoffs.add_(overflow)
        return unusable, unusable & ~overflow

    def state_dict(self) -> dict:
        """{"value", "usable", "backoffs"}."""
        return {"value": float(self.value), "usable": int(self._usable), "backoffs": int(self.backoffs)}

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state` was taken, in the same memory."""
        for tensor, name in ((self.value, "value"), (self._usable, "usable"), (self.backoffs, "backoffs")):
            tensor.fill_(state[name])


class ScaledView:
    """A view (see `program`) in float16 whose caller sees float32 logits and gradients without a scale."""

    def __init__(self, view, scale: LossScale):
        self.view, self._scale = view, scale

    def __getattr__(self, name: str):
        return getattr(self.view, name)

    @property
    def flat(self):
        return self.view.flat

    @flat.setter
    def flat(self, flat) -> None:
        self.view.flat = flat

    def forward(self, images: dict[str, torch.Tensor], wrt: tuple[str, ...] = ()) -> ScaledTape:
        tape = self.view.forward(images, wrt)
        for point, logits in tape.logits.items():
            check_output(logits, len(images[point]))
        return ScaledTape(tape, self._scale)


class ScaledTape:
    """Weight gradients come out times S; all else as from the tape inside."""

    def __init__(self, tape, scale: LossScale):
        self._tape, self._scale = tape, scale
        self._given = tape.logits
        self.logits = {point: z.float() for point, z in self._given.items()}

    def backward(self, cotangents: dict[str, torch.Tensor], *, weights: bool, record: bool = False,
                 images: bool = False):
        scale = self._scale.value
        if weights:
            found = self._tape.backward(self._scaled(cotangents, scale), weights=True, images=images)
            return found and {point: None if g is None else g / scale for point, g in found.items()}
        factor = self._split() if record else scale / self._samples
        found = self._tape.backward(self._scaled(cotangents, factor), weights=False, record=record)
        return {point: self._scale.checked(g) / factor for point, g in found.items()}

    def tangent(self, point: str, u: torch.Tensor):
        factor = self._scale.value / self._split()
        through = self._tape.tangent(point, u * factor)
        return None if through is None else [t.float() / factor for t in through]

    def local(self, point: str, function, weight) -> torch.Tensor:
        return self._tape.local(point, function, weight * self._scale.value)

    @property
    def _samples(self) -> int:
        return len(next(iter(self.logits.values())))

    def _split(self) -> torch.Tensor:
        return (self._scale.value / self._samples).sqrt()

    def _scaled(self, cotangents, factor) -> dict[str, torch.Tensor]:
        return {point: (v.detach() * factor).to(self._given[point].dtype).requires_grad_(v.requires_grad)
                for point, v in cotangents.items()}
