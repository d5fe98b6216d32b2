"""Back to the best checkpoint with a larger Jacobian weight: what appendix E suggests against overfitting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from ..objectives import Objective
from .defaults import DEFAULTS

if TYPE_CHECKING:
    from .setup import Run

MOST = 5
"""Rewinds of a run: alpha at 32 times what it began with. A sixth onset ends the training."""


class Rewinder:
    """Remembers the best epoch's state on the host and goes back to it.

    changes: what each rewind did: {"epoch": at whose end, "to_epoch", "alpha": the new one, "jacobian_at"}.
    """

    def __init__(self):
        self.best: dict | None = None
        self.changes: list[dict] = []

    @property
    def possible(self) -> bool:
        return self.best is not None and len(self.changes) < MOST

    def remember(self, run: Run) -> None:
        """The state to go back to is now this one."""
        self.best = copied({"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(),
                            "schedule": run.schedule.state_dict(), "average": run.step.state_dict().get("average")})

    def rewind(self, run: Run) -> dict:
        """Weights, optimiser, learning rate and count of bad epochs are those of the best epoch; alpha is raised.

        The epochs go on counting, and with them the ramp, the order of the images and the random numbers, so that a run
        trains no longer than without. Returns the new entry of `changes`.
        """
        config, schedule = run.config, run.schedule
        assert self.best is not None  # asked by `possible`
        run.model.load_state_dict(self.best["model"])
        load_optimizer(run.optimizer, copied(self.best["optimizer"]))
        schedule.rewind(self.best["schedule"])
        if self.best["average"] is not None:
            run.step.load_state_dict({**run.step.state_dict(), "average": copied(self.best["average"])})
        # Against the old objective, which is alive still: a CUDA graph knows its objective by id.
        objective = raised(run.step.objective, first_alpha(config.dataset, config.steps))
        run.step.objective = objective
        self.changes.append({"epoch": schedule.epoch, "to_epoch": self.best["schedule"]["epoch"],
                             "alpha": objective.alpha, "jacobian_at": objective.jacobian_at})
        return self.changes[-1]

    def state_dict(self) -> dict:
        return {"best": self.best, "changes": self.changes}

    def load_state_dict(self, state: dict, run: Run) -> None:
        """Also gives the run's step the objective of the last change."""
        self.best, self.changes = copied(state["best"]), list(state["changes"])
        for change in self.changes:
            run.step.objective = raised(run.step.objective, change["alpha"])


def raised(objective: Objective, first: float) -> Objective:
    """The objective with twice its alpha; one whose Jacobian term is missing or off gets that term with alpha `first`,
    at x' where its method does not say at which point."""
    if objective.penalised_point is not None:
        return objective.replace(alpha=2 * objective.alpha)
    return objective.replace(jacobian_at=objective.jacobian_at or "adv", local=None, alpha=first)


def first_alpha(dataset: str, steps: int) -> float:
    """Where alpha is 0: ATLAS's own on this data set (appendix B; `defaults`)."""
    return DEFAULTS[dataset].weights["atlas"][steps > 1]["alpha"]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """`fused` depends on the device, which may be another one than when the state was saved."""
    fused = [group["fused"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, value in zip(optimizer.param_groups, fused, strict=True):
        group["fused"] = value


def copied(tree):
    """A copy on the host: load_state_dict of an optimiser takes tensors over as they are, and training changes them."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, Iterable) and not isinstance(tree, str):
        kind: Any = type(tree)
        return kind(copied(value) for value in tree)
    return tree
