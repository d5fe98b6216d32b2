"""Attacks by name, with the paper's settings as defaults (section 6, appendices B and D.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import attacks as library
from ..attacks.ascend import default_step_size
from ..attacks.checks import at_least_one, positive
from ..attacks.steps import check_norm
from ..engine import FastNetwork
from ..errors import UserError
from .own_attack import OwnAttack
from .telling import TellingAutoAttack, TellingRayS

KNOWN = ("fgsm, pgd-K (K steps, as in pgd-20), pgd-K-R (R restarts), untargeted[-K[-R]], multitargeted[-K[-R]], "
         "apgd-ce, apgd-dlr, apgd-t, fab-t, square[-QUERIES], autoattack, rays[-QUERIES], transfer[-K[-R]], "
         "and module:function for an attack of your own")
BLACK_BOX = ("square", "rays", "transfer")  # these see predictions or scores of the model, no gradient
RAYS_IMAGES = 1_000  # appendix D.2, with 40,000 queries, RayS's default
AUTOATTACK_BATCHES = 4
TRANSFER_STEPS = 1_000  # section 6: "adversaries on surrogate models with 1000 PGD steps"

_NAME = re.compile(r"(fgsm|pgd|untargeted|multitargeted|apgd-ce|apgd-dlr|apgd-t|fab-t|square|autoattack|rays|transfer)"
                   r"(?:-([1-9]\d{0,8}))?(?:-([1-9]\d{0,8}))?(?:@(?:eps/([1-9]\d{0,8})|(\d*\.?\d+(?:e-?\d+)?)))?")
_NUMBERS = {"pgd": (1, 2), "untargeted": (0, 2), "multitargeted": (0, 2), "transfer": (0, 2), "square": (0, 1),
            "rays": (0, 1)}  # how many numbers may follow a name; none where it is not listed
_WITH_STEP = ("pgd", "untargeted", "multitargeted", "transfer")
_CLASS = {"fgsm": library.FGSM, "pgd": library.PGD, "untargeted": library.Untargeted,
          "multitargeted": library.MultiTargeted, "apgd-ce": library.APGD, "apgd-dlr": library.APGD,
          "apgd-t": library.APGDTargeted, "fab-t": library.FABTargeted, "square": library.Square,
          "autoattack": TellingAutoAttack, "rays": TellingRayS, "transfer": library.Transfer}


@dataclass(frozen=True)
class Paper:
    """(steps, restarts) of the untargeted and the multi-targeted attack, and a second step size of PGD-like attacks."""

    untargeted: tuple[int, int]
    multitargeted: tuple[int, int]
    second_step: str | None = None


_SMALL_CNN, _WIDE_RESNET = Paper((50, 20), (50, 20)), Paper((100, 10), (20, 5))
# PGD-20 with the paper's step 0.01 cannot cross MNIST's ball of 0.3, so every PGD-like attack runs with eps/10 as well.
PAPER = {"mnist": replace(_SMALL_CNN, second_step="eps/10"), "digits": _SMALL_CNN}


@dataclass(frozen=True)
class Planned:
    """An attack that will run. eps, norm: the ball that its images must lie in, None: any images in [0, 1].

    images: how many of the images it sees, drawn by the seed; None: all. batches: how many batches it is handed at
    once; black_box: it sees what the model answers, no gradient.
    """

    attack: Callable
    eps: float | None
    norm: str = "Linf"
    images: int | None = None
    black_box: bool = False
    batches: int = 1

    @property
    def takes_network(self) -> bool:
        """An attack from elsewhere may want to differentiate through the model, so it gets the module itself."""
        return type(self.attack).__module__.startswith("atlas_fast.") and not isinstance(self.attack, OwnAttack)

    @property
    def settings(self) -> dict:
        """What a report says about it."""
        return dict(getattr(self.attack, "settings", {}))

    @property
    def key(self) -> dict:
        """What its results depend on."""
        return {**self.settings, "eps": self.eps, "norm": self.norm, "images": self.images}


def create_suite(names: Sequence[str] | Mapping[str, Callable], eps: float, step_size: float | None = None, *,
                 norm: str = "Linf", any_step: bool = False, dataset: str | None = None, surrogate=None,
                 transfer_cache=None, second_step: bool = False, batch_size: int = 256) -> dict[str, Planned]:
    """{name: what will run}. names: see KNOWN, or a mapping from names of your own to callables.

    eps, step_size: pixel units; dataset: whose settings of the paper to take, CIFAR's where it is None; surrogate,
    transfer_cache: the model on which `transfer` crafts, and the folder that keeps its adversaries (None: none);
    second_step: on mnist run the PGD-like attacks with step eps/10 as well (NAME@eps/10); batch_size: of AutoAttack's
    parts.
    Raises UserError for names and values that make no sense.
    """
    if isinstance(names, str):
        raise UserError(f"attacks must be a list of names, got {names!r}; write [{names!r}]")
    check_norm(norm)
    eps = positive(eps, "eps")
    if isinstance(names, Mapping):
        return {name: _of_callable(name, attack, eps, norm) for name, attack in names.items()}
    second = PAPER.get(dataset or "", _WIDE_RESNET).second_step if second_step and norm == "Linf" else None
    plan = {}
    for name in names:
        for full in (name, f"{name}@{second}") if second and _takes_step(name) else (name,):
            attack = create_attack(full, eps, step_size, norm=norm, any_step=any_step, dataset=dataset,
                                   surrogate=surrogate, transfer_cache=transfer_cache)
            base, images, batches = _base(full), None, 1
            if base == "rays":
                images = RAYS_IMAGES
            elif isinstance(attack, library.AutoAttack):  # survivors of several batches share one
                attack.batch_size, batches = at_least_one(batch_size, "batch_size"), AUTOATTACK_BATCHES
            plan[full] = Planned(attack, eps, norm, images, base in BLACK_BOX, batches)
    return plan


def create_attack(name: str, eps: float, step_size: float | None = None, *, norm: str = "Linf",
                  any_step: bool = False, dataset: str | None = None, surrogate=None, transfer_cache=None) -> Callable:
    """The attack of that name (KNOWN); NAME@S and NAME@eps/D give PGD-like attacks a step size of their own.

    eps, step_size: pixel units; None: the data set's of the paper, where that is not known 2.5 eps / K.
    fgsm: random start, step 1.25 eps. surrogate, transfer_cache: the model on which `transfer` crafts, and the
    folder that keeps its adversaries.
    Raises UserError for another name or value.
    """
    if isinstance(name, str) and ":" in name:
        return OwnAttack.named(name)
    base, numbers, step_size = _parse(name, eps, step_size)
    make: Any = _CLASS[base]
    common: dict[str, Any] = {"norm": norm}
    if base == "pgd":
        return make(eps, step_size, *numbers, any_step=any_step, **common)
    if base in ("untargeted", "multitargeted"):
        default = getattr(PAPER.get(dataset or "", _WIDE_RESNET), base)
        return make(eps, step_size, *numbers, *default[len(numbers):], **common)
    if base == "transfer":
        if surrogate is None:
            raise UserError("transfer needs a surrogate: the run whose network crafts the adversaries "
                            "(--surrogate RUN)")
        given: tuple[Any, ...] = numbers or (TRANSFER_STEPS,)
        attack = library.PGD(eps, step_size, *given, **common)
        return make(surrogate, attack, transfer_cache, FastNetwork)
    if base in ("apgd-ce", "apgd-dlr"):
        return make(eps, loss=base.removeprefix("apgd-"), **common)
    if base in ("square", "rays"):
        return make(eps, **({"queries": numbers[0]} if numbers else {}), **common)
    return make(eps, **common)


def _of_callable(name: str, attack: Callable, eps: float, norm: str) -> Planned:
    """A callable of the user's; the package's attacks know their eps and norm."""
    if not callable(attack):
        raise UserError(f"attack {name!r} must be callable (model, x, y) -> x_adv, got {type(attack).__name__}")
    if not hasattr(attack, "settings"):
        return Planned(OwnAttack(name, attack), eps, norm)
    return Planned(attack, getattr(attack, "eps", eps), getattr(attack, "norm", norm))


def _base(name: str) -> str:
    match = _NAME.fullmatch(name)
    return match[1] if match else ""


def _takes_step(name: str) -> bool:
    return _base(name) in ("pgd", "untargeted", "multitargeted") and "@" not in name


def _parse(name: str, eps: float, step_size: float | None) -> tuple[str, tuple[int, ...], float | None]:
    """(which attack, the numbers in its name, step size)."""
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise UserError(f"unknown attack {name!r}; known are {KNOWN}")
    base, fraction, step = match[1], match[4], match[5]
    numbers = tuple(int(number) for number in match.group(2, 3) if number)
    low, high = _NUMBERS.get(base, (0, 0))
    if not low <= len(numbers) <= high or ((fraction or step) and base not in _WITH_STEP):
        raise UserError(f"unknown attack {name!r}; known are {KNOWN}")
    if fraction:
        step_size = eps / int(fraction)
    elif step:
        step_size = positive(float(step), f"the step size in {name}")
    return base, numbers, step_size


def sweep_attack(eps: float, steps: int, norm: str, images: int) -> Planned:
    """PGD whose steps always cross the ball (2.5 eps / K), for the curves."""
    return Planned(library.PGD(eps, default_step_size(eps, steps), steps, norm=norm), eps, norm, images)
