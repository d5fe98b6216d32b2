"""Attacks that know more than an adversary per image, made to tell it: `details` (arrays [n]) and `warnings`."""

from __future__ import annotations

import numpy as np
import torch

from ..attacks import AutoAttack, RayS
from ..attacks.autoattack_checks import check_square


class TellingAutoAttack(AutoAttack):
    """details: "part", which part of the cascade broke the image ("clean": none was needed, "": robust)."""

    def __call__(self, model, x: torch.Tensor, y: torch.Tensor, rng: torch.Tensor | None = None,
                 sample_offset: int = 0) -> torch.Tensor:
        result = self.run(model, x, y, rng, sample_offset)
        names = np.array(["clean", *result.parts, ""])
        self.details = {"part": names[result.broken_by.cpu().numpy()]}
        # Its rule about Square is for a whole data set: 0.2 points of a few batches are less than an image.
        of_batch = check_square(result.accuracy_after)
        self.warnings = [warning for warning in result.warnings if warning not in of_batch]
        return result.x_adv

    def _about_model(self, model, x, y) -> list[str]:
        """Nothing: an evaluation looks at the model itself, once, whatever its attacks are."""
        return []


class TellingRayS(RayS):
    """details: "queries" that were made, and "distance", that of the nearest image found, inside the ball or not."""

    def __call__(self, model, x: torch.Tensor, y: torch.Tensor, rng: torch.Tensor | None = None,
                 sample_offset: int = 0) -> torch.Tensor:
        result = self.search(model, x, y)
        self.details = {"queries": result.queries, "distance": result.distance}
        inside = (result.distance <= self.eps).view(-1, *[1] * (x.dim() - 1))
        return torch.where(inside, result.x_final, x.detach())
