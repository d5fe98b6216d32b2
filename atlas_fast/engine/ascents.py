"""The gradients that adversaries climb while x' is made, by passes of a view. Sums over the batch, as in
`attacks.directions`."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from ..attacks.checks import check_logits
from ..attacks.directions import ascend_ce, ascend_ce_and_nuclear, ascend_kl, probabilities
from ..attacks.early_stop import EarlyStop
from ..objectives.framework import Crafting
from ..objectives.input_gradients import inner, losses, per_sample
from .ranks import Ranks


def gradient(how: Crafting, view, x: torch.Tensor, y: torch.Tensor, rng: torch.Tensor,
             early: EarlyStop | None = None, ranks: Ranks | None = None) -> Callable:
    """x' -> the gradient there of what `how` ascends. Call it once a sign step, in `view.crafting()`. early: is shown
    the logits of every iterate; ranks: the processes that hold equal parts of the batch, None: this is all of it."""
    if how.ascends == "linearity":
        return _linearity(view, x, y)
    direction = {"ce": _ce, "kl": _kl, "ce+nuclear": _ce_and_nuclear}[how.ascends](how, view, x, y, rng, ranks)

    def climbed(x_adv):
        tape, logits = _pass(view, x_adv, y)
        if early is not None:
            early.look(logits)
        return _back(tape, direction(logits))

    return climbed


def _ce(how, view, x, y, rng, ranks):
    return lambda logits: ascend_ce(logits, y)


def _kl(how, view, x, y, rng, ranks):
    clean = probabilities(_clean(view, x, y))
    return lambda logits: ascend_kl(logits, clean)


def _ce_and_nuclear(how, view, x, y, rng, ranks):
    """The nuclear norm counts in every second training step or, of several sign steps, in the first, third, ...

    The parity is that of seed + step, so that calls without an rng, all at step 0 of a random seed, take turns too."""
    clean, number = _clean(view, x, y), itertools.count()

    def direction(logits):
        counts = rng.sum() % 2 if how.steps == 1 else (next(number) + 1) % 2
        return ascend_ce_and_nuclear(logits, y, clean, how.weight * counts, ranks)

    return direction


def _linearity(view, x, y):
    """The gradient of sum_i s_i (l_i(x') - l_i(x) - (x' - x)_i . g_i), g = d sum l(x) / dx, s_i the sign of what it
    multiplies. s_i enters the cotangent, since train-mode BatchNorm lets l_i depend on the other samples."""
    tape, logits = _pass(view, x, y)
    at_x, slope = losses(logits, y), _back(tape, ascend_ce(logits, y))

    def climbed(x_adv):
        tape, logits = _pass(view, x_adv, y)
        sign = (losses(logits, y) - at_x - inner(x_adv - x, slope)).sign()
        return _back(tape, ascend_ce(logits, y) * per_sample(sign, logits)) - slope * per_sample(sign, slope)

    return climbed


def _pass(view, images, y):
    tape = view.forward({"adv": images}, wrt=("adv",))
    logits = tape.logits["adv"]
    check_logits(logits, y)
    return tape, logits


def _back(tape, cotangent):
    return tape.backward({"adv": cotangent}, weights=False)["adv"]


def _clean(view, x, y):
    logits = view.forward({"x": x}).logits["x"]
    check_logits(logits, y)
    return logits
