"""Checks that the kinds of steps share."""

from __future__ import annotations

from ..errors import UserError
from ..objectives import Objective


def held(state: dict, *names: str) -> None:
    """Raises UserError where a step's state lacks one of the names."""
    missing = [name for name in ("seed", "step", *names) if name not in state]
    if missing:
        raise UserError(f"the step's state holds no {missing[0]!r}: it was taken from another kind of step")


def only_ce_at_adversary(objective: Objective, name: str) -> Objective:
    """Raises UserError unless the objective is the cross-entropy at an adversary that ascends it, and nothing else."""
    if isinstance(objective, Objective) and (objective.points != ("adv",) or objective.adversary != "ce"
                                             or objective.penalised_point is not None or objective.tau is not None):
        raise UserError(f"{name} trains on the cross-entropy at x' alone: give objectives.adv, not {objective.name}")
    return objective
