"""Signs that a model cannot be judged by gradients, as sentences for a report.

Randomised, probabilities, gradients in the forward pass and vanishing gradients are the flags of Croce & Hein 2020; the
other checks are for what those miss. Nothing is printed, Python's tracing hooks stay as they are, and torch's global
generators stand afterwards where they stood before, though a randomised model draws from them.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.overrides import TorchFunctionMode

from ..errors import UserError
from .network import Network

REPETITIONS = 5
LARGEST_DIFFERENCE = 1e-4  # between repeated logits divided by their norms; reduced precision may come near it
OTHER_PATH = 2e-3  # the same where another algorithm may have been at work (other sizes, no recording); TF32: 5e-4
SMALL_STEP = 1e-3  # pixel units: far below any eps in use, far above the rounding of images and logits in float32
MISLED = 0.25  # of the images; it is none of 128 on each of the networks behind docs/results
FLAT = 0.1  # spread of the logits: no probability is then further than 11% from uniform


def check_model(model, x: torch.Tensor, y: torch.Tensor) -> list[str]:
    """What is suspicious about the model on these images [N, ...] in [0, 1] with labels int64 [N].

    One batch is enough; it costs ten forward and two backward passes. The model itself is called where its behaviour
    between calls is the question: a recorded graph of it might repeat what it did once.
    """
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        found = [_randomised(model, x), _probabilities(model, x), _dynamic(model, x)]
        if found[0] is None:  # two passes of a random function differ anyway, and one gradient tells little
            found += [_coupled(model, x), _other_with_gradients(model, x), _flat(model, x, y)]
            found += _gradients(Network(model), x, y)
    return [sentence for sentence in found if sentence]


@torch.no_grad()
def _randomised(model, x) -> str | None:
    logits = torch.stack([model(x) for _ in range(REPETITIONS)])
    difference = max(_difference(logits[i], logits[j]) for i in range(REPETITIONS) for j in range(i))
    classes = logits.argmax(2)
    changed = (classes != classes[0]).any(0).double().mean().item()
    if changed == 0 and difference <= LARGEST_DIFFERENCE:
        return None
    return ("the model is randomised: repeated passes over the same images differ (logits, scaled to norm 1, by up to "
            f"{difference:.1e}; the class of {100 * changed:.1f}% of the images); one gradient is then a poor guide, "
            "and the gradients of several passes should be averaged")


@torch.no_grad()
def _probabilities(model, x) -> str | None:
    output = model(x).double()
    if output.min() > -1e-5 and output.max() < 1 + 1e-5 and ((output.sum(1) - 1).abs() < 1e-5).all():
        return ("the model's outputs look like probabilities (in [0, 1], with sum 1); attacks need the logits, since a "
                "softmax of a softmax hardly has a gradient")
    return None


@torch.no_grad()
def _dynamic(model, x) -> str | None:
    with _GradientCalls() as calls:
        model(x[:2])
    return ("the model computes gradients in its forward pass (it adapts to its input); standard AutoAttack may not be "
            "enough for such a defence") if calls.seen else None


class _GradientCalls(TorchFunctionMode):
    """Inside, notes calls of autograd."""

    seen = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen |= function in (torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad)
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def _coupled(model, x) -> str | None:
    if len(x) < 4 or _same(model(x), torch.cat([model(x[:2]), model(x[2:])])):
        return None  # 2 and the rest: a normalisation may refuse a single image, and differs most for few
    return ("the logits of an image depend on the images beside it (a normalisation by the batch's statistics in eval "
            "mode?): accuracies change with the batch size, and attacks that drop finished images see another model")


def _other_with_gradients(model, x) -> str | None:
    with torch.no_grad():
        plain = model(x)
    with torch.enable_grad():
        recorded = model(x.detach().requires_grad_()).detach()
    if _same(plain, recorded):
        return None
    return ("the model answers otherwise while gradients are recorded: attacks by gradients climb another function "
            "than the one that is judged")


@torch.no_grad()
def _flat(model, x, y) -> str | None:
    logits = model(x).double()
    learned = (logits.argmax(1) == y).double().mean() > 2 / logits.shape[1]
    if not (learned and (logits.amax(1) - logits.amin(1)).nanmedian() < FLAT):
        return None
    return (f"the logits hardly differ (by less than {FLAT:g} on most images), so that all probabilities are nearly "
            "the same: the cross-entropy then climbs towards all wrong classes at once; rely on losses of the margin")


def _gradients(network: Network, x, y) -> list[str]:
    """What is wrong with the image gradients at the correctly classified images."""
    logits = network.logits(x)
    correct = (logits.argmax(1) == y) & ~logits.isnan().any(1)
    try:
        margins, steepest = network.gradient(x, partial(_margin_slope, y=y))
        of_ce = network.gradient(x, partial(_ce_slope, y=y))[1]
    except UserError as error:  # attacks without gradients may still run
        return [f"{error}: only attacks that need none say anything about this model"]
    flat, saturated = (correct & (g == 0).flatten(1).all(1) for g in (steepest, of_ce))
    n, sentences = int(correct.sum()), []
    if flat.any():
        sentences.append(f"{int(flat.sum())} of {n} correctly classified images have a zero gradient of the margin: "
                         "attacks by gradients cannot move them; look at what Square and RayS find")
    if (saturated & ~flat).any():
        sentences.append(f"{int((saturated & ~flat).sum())} of {n} correctly classified images have a zero gradient of "
                         "the cross-entropy only: APGD-CE and PGD cannot move them; rely on losses of the logits")
    broken = correct & ~(steepest.isfinite() & of_ce.isfinite()).flatten(1).all(1)
    if broken.any():
        sentences.append(f"{int(broken.sum())} of {n} correctly classified images have gradients that are not finite: "
                         "attacks leave such pixels where they are; look at what Square and RayS find")
    moved = network.logits((x - SMALL_STEP * steepest.sign()).clamp(0, 1))
    misled = int((correct & ~flat & ~broken & ~(_margin(moved, margins, y) < _margin(margins, margins, y))).sum())
    if misled > MISLED * n:
        sentences.append(f"a step of {SMALL_STEP:g} against the gradient of the margin does not lower the margin of "
                         f"{misled} of {n} correctly classified images: the gradient is not that of the model (rounded "
                         "values with a gradient of their own? one turned round?); look at what Square and RayS find")
    return sentences


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return _difference(a, b) <= max(OTHER_PATH, 8 * torch.finfo(a.dtype).eps)


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest distance between rows of logits, scaled to norm 1; NaN is like NaN."""
    a, b = (torch.nan_to_num(z.double()) for z in (a, b))
    a, b = (z / z.norm(dim=1, keepdim=True).clamp_min(1e-300) for z in (a, b))
    return (a - b).norm(dim=1).max().item()


def _ce_slope(logits, y):
    return (logits.float().softmax(1) - torch.nn.functional.one_hot(y, logits.shape[1])).to(logits.dtype)


def _margin_slope(logits, y):
    label = y[:, None]
    return torch.zeros_like(logits).scatter(1, label, 1.0).scatter(1, _other(logits, y), -1.0)


def _margin(logits, at, y):
    """logit of y minus that of the class that is the largest other one of the logits `at`: [N]."""
    return (logits.gather(1, y[:, None]) - logits.gather(1, _other(at, y))).squeeze(1)


def _other(logits, y):
    return logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
