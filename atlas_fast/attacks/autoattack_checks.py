"""Signs that an evaluation by gradients cannot be trusted (the flags of Croce & Hein 2020), as sentences for a report.

Nothing is printed, Python's tracing hooks stay as they are, and torch's global generators stand afterwards where they
stood before, though a randomised model draws from them.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.overrides import TorchFunctionMode

from .network import Network

REPETITIONS = 5
LARGEST_DIFFERENCE = 1e-4  # between repeated logits divided by their norms; reduced precision may come near it
SQUARE_GAIN = 0.002  # in accuracy


def check_model(model, x: torch.Tensor, y: torch.Tensor) -> list[str]:
    """What is suspicious about the model on these images [N, ...] in [0, 1] with labels int64 [N].

    One batch is enough; it costs seven forward and two backward passes. The model itself is called where its behaviour
    between calls is the question: a recorded graph of it might repeat what it did once.
    """
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        found = [_randomised(model, x), _probabilities(model, x), _dynamic(model, x)]
        if found[0] is None:  # the gradient of a random function tells little
            found += _vanishing(model, x, y)
    return [sentence for sentence in found if sentence]


def check_square(accuracy_after: dict[str, float]) -> list[str]:
    """accuracy_after: accuracy in [0, 1] after each part of a cascade, in order, with "square" among them."""
    others = [value for name, value in accuracy_after.items() if name != "square"]
    if "square" not in accuracy_after or len(others) < 2:  # clean accuracy alone is no white-box attack
        return []
    gain = min(others) - accuracy_after["square"]
    if gain <= SQUARE_GAIN:
        return []
    return [f"Square, which uses no gradient, lowered the accuracy by {100 * gain:.2f} points more than the attacks "
            "that do: their gradients are probably masked, and the robust accuracy may be too high; run more queries "
            "and restarts of Square, RayS, or an attack made for this model"]


@torch.no_grad()
def _randomised(model, x) -> str | None:
    logits = torch.stack([model(x).float() for _ in range(REPETITIONS)])
    unit = logits / (logits.norm(dim=2, keepdim=True) + 1e-10)
    difference = max((unit[i] - unit[j]).norm(dim=1).max().item() for i in range(REPETITIONS) for j in range(i))
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


def _vanishing(model, x, y) -> list[str]:
    """Shares of zero image gradients of the margin and of the cross-entropy among the correctly classified images."""
    network = Network(model)
    correct = network.logits(x).argmax(1) == y
    flat, saturated = (correct & (network.gradient(x, partial(slope, y=y))[1] == 0).flatten(1).all(1)
                       for slope in (_margin_slope, _ce_slope))
    n, sentences = int(correct.sum()), []
    if flat.any():
        sentences.append(f"{int(flat.sum())} of {n} correctly classified images have a zero gradient of the margin: "
                         "attacks by gradients cannot move them; look at what Square and RayS find")
    if (saturated & ~flat).any():
        sentences.append(f"{int((saturated & ~flat).sum())} of {n} correctly classified images have a zero gradient of "
                         "the cross-entropy only: APGD-CE and PGD cannot move them; rely on losses of the logits")
    return sentences


def _ce_slope(logits, y):
    return (logits.float().softmax(1) - torch.nn.functional.one_hot(y, logits.shape[1])).to(logits.dtype)


def _margin_slope(logits, y):
    label = y[:, None]
    other = logits.scatter(1, label, -torch.inf).argmax(1, keepdim=True)
    return torch.zeros_like(logits).scatter(1, label, 1.0).scatter(1, other, -1.0)
