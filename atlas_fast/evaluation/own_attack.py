"""An attack of the user's own, named module:function: anything callable (model, x, y) -> x_adv."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path

import torch

from .. import named
from ..errors import UserError


class OwnAttack:
    """Calls a function that knows nothing of this package's random numbers and may misbehave.

    It gets copies of the images and torch's generators seeded by (seed, first sample), so that an interrupted
    evaluation goes on with the same numbers. What the function raises, and a change of the model's weights or
    statistics, becomes a UserError.
    """

    def __init__(self, name: str, function: Callable):
        self.name, self._function = name, function

    @classmethod
    def named(cls, name: str) -> OwnAttack:
        """module:function (function may be dotted). Raises UserError where it cannot be imported or called."""
        return cls(name, named.find(name, "attack"))

    @property
    def settings(self) -> dict:
        """The name, and a hash of the file that defines the function: another version is another attack."""
        try:
            source = Path(inspect.getsourcefile(inspect.unwrap(self._function)) or "").read_bytes()
        except (TypeError, OSError):
            return {"function": self.name}
        return {"function": self.name, "source": hashlib.sha256(source).hexdigest()[:12]}

    def __call__(self, model, x: torch.Tensor, y: torch.Tensor, rng: torch.Tensor | None = None,
                 sample_offset: int = 0) -> torch.Tensor:
        before = _state(model)
        seed = 0 if rng is None else int(rng[0])
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            torch.manual_seed((seed * 1_000_003 + sample_offset) % 2**63)
            try:
                x_adv = self._function(model, x.clone(), y.clone())
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"the attack {self.name!r} failed with {type(error).__name__}: {error}") from error
        if any(not torch.equal(value, now) for value, now in zip(before, _tensors(model), strict=True)):
            raise UserError(f"the attack {self.name!r} changed the model's weights or BatchNorm statistics; "
                            "it must leave the model as it is (and in eval mode)")
        return x_adv


def _tensors(model) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()] if isinstance(model, torch.nn.Module) else []


def _state(model) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in _tensors(model)]
