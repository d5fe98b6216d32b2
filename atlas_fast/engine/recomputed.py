"""Memory for computation: of a network's steps only what crosses from segment to segment is kept.

A segment's forward pass runs again where a later sweep comes to it, and its recorded backward pass where the tangent
does. So a step with a Jacobian penalty holds one segment and, of each segment, an activation, an adjoint and what
BatchNorm's second-order terms leave for the reverse sweep, for two more forward passes and one more backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..attacks.statistics import norm_layers, statistics_kept
from .graph import Network
from .rules import BatchNorm


def segments(network: Network) -> list[tuple[int, int]]:
    """(first, stop) of about sqrt(n) runs of the n steps, parted where the fewest values are in use.

    From now on no step overwrites a value of an earlier segment.
    """
    steps = network.steps
    size, live, alive = max(1, round(math.sqrt(len(steps)))), [], {0}
    for step in steps:
        live.append(len(alive))  # before this step
        alive |= {step.output} if step.total is None else {step.output, step.total}
        alive -= set(step.free)
    cuts = [0]
    while cuts[-1] + size < len(steps):
        target = cuts[-1] + size
        near = range(cuts[-1] + max(1, size // 2), min(len(steps), target + size // 2 + 1))
        cuts.append(min(near, key=lambda i: (live[i], abs(i - target))))
    found = list(zip(cuts, [*cuts[1:], len(steps)], strict=True))
    _protect(network, found)
    return found


def _protect(network: Network, found: list[tuple[int, int]]) -> None:
    for first, stop in found:
        own = {k for step in network.steps[first:stop] for k in (step.output, step.total)}
        for step in network.steps[first:stop]:
            add = step.rule.add if isinstance(step.rule, BatchNorm) else None
            for rule in (step.rule, add):
                if rule is not None and rule.overwrite is not None and step.inputs[rule.overwrite] not in own:
                    rule.overwrite = None


class Recomputed:
    """saved[i]: what step i saved, computed again with all of its segment; saved[i] = None: it is not needed again.

    forward: (first, stop, values) -> list, the pass of some steps, which must not move running statistics again.
    """

    def __init__(self, forward: Callable, network: Network, segments: list[tuple[int, int]]):
        self._forward, self._values = forward, network.values
        self._layers = norm_layers(network.root)
        self._segment = {i: (first, stop) for first, stop in segments for i in range(first, stop)}
        self._entered: dict[int, dict] = {}
        self._at: int | None = None
        self._saved: list = []

    def enter(self, first: int, values: list) -> None:
        """Remember the values that a segment starts from."""
        self._entered[first] = {k: value for k, value in enumerate(values) if value is not None}

    def __getitem__(self, i: int):
        first, stop = self._segment[i]
        if self._at != first:
            self._at, self._saved = None, []  # before the next one is made
            values = [self._entered[first].get(k) for k in range(self._values)]
            with statistics_kept(self._layers):
                self._saved = self._forward(first, stop, values)
            self._at = first
        return self._saved[i - first]

    def __setitem__(self, i: int, nothing: None) -> None:
        first, _ = self._segment[i]
        self._saved[i - first] = nothing
        if i == first:
            self._at, self._saved = None, []
            del self._entered[first]


class RecordedAgain:
    """recorded[i]: what step i recorded in a backward sweep, computed again with all of its segment.

    backward: (first, stop, adjoints) -> list, the recorded sweep through some steps.
    """

    def __init__(self, backward: Callable, segments: list[tuple[int, int]]):
        self._backward = backward
        self._segment = {i: (first, stop) for first, stop in segments for i in range(first, stop)}
        self._entered: dict[int, list] = {}
        self._at: int | None = None
        self._recorded: list = []

    def enter(self, first: int, adjoints: list) -> None:
        """Remember the adjoints with which the sweep comes to a segment from its end."""
        self._entered[first] = list(adjoints)

    def __getitem__(self, i: int):
        first, stop = self._segment[i]
        if self._at != first:
            self._at, self._recorded = None, []
            self._recorded = self._backward(first, stop, list(self._entered[first]))
            self._at = first
        return self._recorded[i - first]
