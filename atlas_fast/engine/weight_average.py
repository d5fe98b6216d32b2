"""An exponential moving average of the weights, which is validated and kept in place of them.

    a <- d a + (1 - d) w   after each step of the optimiser,   d = min(decay, (1 + t) / (10 + t)),   t = steps before it

The bound lets the average forget the random weights of the beginning (as TensorFlow's ExponentialMovingAverage does
with num_updates, and the code of Gowal et al. 2020). Running statistics of BatchNorm, and other floating-point
buffers, are averaged with the same d, since they belong to the activations of the same weights; whole numbers
(counters) are copied. A step that was skipped does not count.
"""

from __future__ import annotations

import copy

import torch

from ..attacks.checks import finite
from ..errors import UserError


class WeightAverage:
    """model: whose weights are followed; decay in (0, 1), else UserError. `self.model`: the averaged network, a copy in
    eval mode that takes no gradient."""

    def __init__(self, model: torch.nn.Module, decay: float):
        if not 0 < finite(decay, "ema") < 1:
            raise UserError(f"ema must lie between 0 and 1 (a decay such as 0.999), got {decay}")
        self.decay, self._followed = decay, model
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        device = next(model.parameters()).device
        self._steps = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def follow(self, unusable: torch.Tensor) -> None:
        """Move towards the weights, unless the 0-d flag on the device is true."""
        usable = unusable.logical_not()
        bound = (1 + self._steps) / (10 + self._steps)
        self._steps.add_(usable)
        share = (1 - bound.clamp_max(self.decay)) * usable
        pairs = [*zip(self.model.parameters(), self._followed.parameters(), strict=True),
                 *zip(self.model.buffers(), self._followed.buffers(), strict=True)]
        for dtype in dict.fromkeys(mine.dtype for mine, _ in pairs):
            mine, theirs = zip(*((a, b.detach()) for a, b in pairs if a.dtype == dtype), strict=True)
            if dtype.is_floating_point:
                steps = torch._foreach_sub(theirs, mine)
                torch._foreach_mul_(steps, share.to(dtype))
                torch._foreach_add_(mine, steps)
            else:
                torch._foreach_copy_(mine, theirs)

    def state_dict(self) -> dict:
        """{"steps", "model"}."""
        return {"steps": int(self._steps), "model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state` was taken, in the same memory."""
        self._steps.fill_(state["steps"])
        self.model.load_state_dict(state["model"])
