"""Signs of gradient masking (Athalye et al. 2018; Carlini et al. 2019, section 5), as sentences; none where none show.

A sign is a stronger attack doing worse than a weaker one on the same images. Differences that chance would explain
(`clearly_more`) are no signs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import numpy as np

from .accuracies import clearly_more
from .samples import AttackResult
from .sweeps import Curves

# AutoAttack's threshold for its own warning: 0.2 percentage points below the best of its gradient attacks.
SQUARE_POINTS = 0.002
FEW = 3  # images; on small sets 0.2 points are less than one image
EVERYTHING = 0.5  # an L_inf ball of this radius holds the all-grey image around every image
NEARLY_NONE = 0.10
LONG, POOR = 100, 0.05  # from so many steps on, PGD should come within so much of APGD on the same loss

_PGD = re.compile(r"pgd-\d+.*")


def signs(correct: np.ndarray, results: dict[str, AttackResult], curves: Curves | None = None) -> list[str]:
    """Sentences. correct: bool [N], right without attack."""
    found = [*_one_step(correct, results), *_black_box(correct, results), *_more_steps(correct, results),
             *_fixed_steps(correct, results)]
    if curves is not None:
        found += [*_large_eps(curves), *_rising(curves)]
    for name, result in results.items():
        found += [*_within_cascade(name, result, correct), *(f"{name}: {warning}" for warning in result.warnings)]
    return found


def _one_step(correct, results) -> list[str]:
    """FGSM against every PGD."""
    if "fgsm" not in results:
        return []
    return [f"FGSM is stronger than {name}: it breaks {first} images that {name} does not, which breaks {second} that "
            f"FGSM does not, though {name} takes {results[name].settings['steps']} steps."
            for name in results if _PGD.fullmatch(name) and results[name].settings.get("steps", 1) > 1
            for first, second in [_only_one(correct, results["fgsm"], results[name])] if clearly_more(first, second)]


def _black_box(correct, results) -> list[str]:
    """Attacks without gradients against all iterated attacks with them."""
    white = {name: result for name, result in results.items()
             if not result.black_box and name != "fgsm" and "function" not in result.settings}
    found = []
    for name, result in results.items():
        if not result.black_box or not white:
            continue
        broken = np.zeros(len(correct), bool)
        for other in white.values():
            broken[other.index[other.broken]] = True
        right = correct[result.index]
        new = int((right & result.broken & ~broken[result.index]).sum())
        if new >= FEW and new > SQUARE_POINTS * len(right):
            found.append(f"{name} uses no gradient of the model, but breaks {new} of {len(right)} images "
                         f"({new / len(right):.1%}) that {_list(list(white))} did not.")
    return found


def _within_cascade(name, result, correct) -> list[str]:
    """AutoAttack's own rule, over all images: its last part, Square, should find next to nothing."""
    n, parts = len(result.index), result.details.get("part")
    last = 0 if parts is None else int((correct[result.index] & (parts == "square")).sum())
    if last < FEW or last <= SQUARE_POINTS * n:
        return []
    return [f"Within {name}, Square, which uses no gradient, breaks {last} of {n} images ({last / n:.1%}) that the "
            "parts with gradients left; run RayS, more queries of Square, or an attack made for this model."]


def _more_steps(correct, results) -> list[str]:
    """The same attack with more and with fewer steps, everything else equal but the step size that K decides."""
    found = []
    for one, other in combinations((name for name, result in results.items() if "steps" in result.settings), 2):
        if not _comparable(one, results[one].settings, other, results[other].settings):
            continue
        few, many = sorted((one, other), key=lambda name: results[name].settings["steps"])
        first, second = _only_one(correct, results[few], results[many])
        if clearly_more(first, second):
            found.append(f"{few} is stronger than {many}: it breaks {first} images that {many} does not, against "
                         f"{second} the other way round; more steps should not be weaker.")
    return found


def _fixed_steps(correct, results) -> list[str]:
    """APGD-CE, alone or first in AutoAttack, against PGD with at least as many steps: the same loss and gradients, but
    steps that begin at 2 eps and are halved. Seen on MNIST: 68% of 200 images left, where PGD-1000 left 80%."""
    found = []
    for long, pgd in results.items():
        if not _PGD.fullmatch(long) or pgd.settings.get("steps", 0) < LONG:
            continue
        for name, result in results.items():
            parts = result.details.get("part")
            if name != "apgd-ce" and parts is None:
                continue
            apgd = result if parts is None else replace(result, broken=np.isin(parts, ("clean", "apgd-ce")))
            first, second = _only_one(correct, apgd, pgd)
            n = int(correct[np.intersect1d(apgd.index, pgd.index)].sum())
            if clearly_more(first, second) and first - second > POOR * n:
                found.append(f"{name if parts is None else f'APGD-CE within {name}'} breaks {first} of {n} images that "
                             f"{long}, which climbs the same loss with more steps, does not ({second} the other way "
                             "round): PGD's steps do not suit this network, and its figures flatter.")
    return found


def _comparable(one: str, a: dict, other: str, b: dict) -> bool:
    family = [re.split(r"-\d", name)[0] for name in (one, other)]
    same = all(a.get(key) == b.get(key) for key in ("eps", "norm", "restarts", "any_step"))
    return family[0] == family[1] and same and a["steps"] != b["steps"]


def _large_eps(curves: Curves) -> list[str]:
    """At a radius that holds everything, or at the largest that was tried, hardly an image may stay robust."""
    last = curves.eps[-1]
    if curves.norm != "Linf" or last["eps"] < EVERYTHING or last["robust_accuracy"] <= NEARLY_NONE:
        return []
    return [f"At eps {last['eps']:.3g}, where the ball holds an all-grey image around every image, "
            f"{last['robust_accuracy']:.1%} of {last['n']} images still count as robust; it should be about none."]


def _rising(curves: Curves) -> list[str]:
    """A larger ball, or more steps, must not be weaker."""
    found = []
    for points, key, what in ((curves.eps, "eps", "eps {:.3g}"), (curves.steps, "steps", "PGD-{}")):
        for before, after in zip(points, points[1:], strict=False):
            first, second = int((before["broken"] & ~after["broken"]).sum()), \
                int((after["broken"] & ~before["broken"]).sum())
            if clearly_more(first, second):
                found.append(f"Robust accuracy rises from {before['robust_accuracy']:.1%} with "
                             f"{what.format(before[key])} to {after['robust_accuracy']:.1%} with "
                             f"{what.format(after[key])}; it should fall.")
    return found


def _only_one(correct, a: AttackResult, b: AttackResult) -> tuple[int, int]:
    """How many images only a breaks and only b breaks, among those right without attack that both saw."""
    broken = np.full((2, len(correct)), -1, np.int8)
    for row, result in zip(broken, (a, b), strict=True):
        row[result.index] = result.broken
    both = correct & (broken >= 0).all(0)
    return (int((both & (broken[0] == 1) & (broken[1] == 0)).sum()),
            int((both & (broken[1] == 1) & (broken[0] == 0)).sum()))


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
