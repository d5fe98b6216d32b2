"""Checks of what a user hands in: images, labels and a model's output. They cost no device synchronisation."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real

import torch

from ..errors import UserError

OUTSIDE = 1e-6  # of [0, 1], by which images may miss it: an interpolation's rounding


def check_batch(x: torch.Tensor, y: torch.Tensor) -> None:
    """x: float32 or float64 images [N, ...] in [0, 1] (looked at on the CPU only) with N >= 1; y: int64 labels [N] on
    the same device. Raises UserError."""
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        raise UserError(f"x and y must be tensors, got {type(x).__name__} and {type(y).__name__}")
    if not x.is_floating_point():
        raise UserError(f"x must be float images in [0, 1], got {x.dtype}; convert 0..255 images by x.float() / 255")
    if x.dtype not in (torch.float32, torch.float64):  # bfloat16 near 1 has a spacing of eps / 8 for eps = 8/255
        raise UserError(f"x must be float32 (or float64) images, got {x.dtype}, which is too coarse for eps")
    if x.dim() < 2 or len(x) == 0:
        raise UserError(f"x must be a batch of images [N, C, H, W] with N >= 1, got shape {list(x.shape)}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise UserError(f"y must be int64 labels of shape [{len(x)}], got {y.dtype} of shape {list(y.shape)}")
    if y.device != x.device:
        raise UserError(f"x and y must be on one device, got {x.device} and {y.device}")
    if torch.is_inference_mode_enabled():
        raise UserError("attacks and objectives need gradients, which torch.inference_mode() rules out; "
                        "use torch.no_grad()")
    if x.device.type == "cpu" and x.numel():
        low, high = (float(v) for v in x.detach().aminmax())
        if math.isfinite(high - low) and not -OUTSIDE <= low <= high <= 1 + OUTSIDE:  # others: a step that is skipped
            raise UserError(f"images must lie in [0, 1], got values from {low:g} to {high:g}; a normalisation belongs "
                            "into the model, as its first layer")


def check_output(logits: torch.Tensor, samples: int) -> None:
    """A model must return logits [N, C] for N samples. Raises UserError."""
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != samples:
        got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"the model must return logits [{samples}, classes], got {got}; wrap it in a module that "
                        "returns them alone")


@contextmanager
def explained(model, x: torch.Tensor) -> Iterator[None]:
    """Inside, PyTorch's refusal of images of another dtype than the model's becomes a UserError that says so."""
    try:
        yield
    except RuntimeError as error:
        parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
        dtypes = {p.dtype for p in parameters if p.is_floating_point()}
        if not dtypes or x.dtype in dtypes:
            raise
        raise UserError(f"the model failed on {x.dtype} images ({str(error).splitlines()[0]}), and its weights are "
                        f"{', '.join(map(str, dtypes))}: convert one of the two; a model in half precision must "
                        "convert its input itself") from error


def check_logits(logits: torch.Tensor, y: torch.Tensor) -> None:
    """A model must return logits [N, C], C at least 2, and labels lie in 0..C-1 (looked at on the CPU only). Raises
    UserError."""
    check_output(logits, len(y))
    if logits.shape[1] < 2:
        raise UserError(f"at least 2 classes are needed, got logits {list(logits.shape)}, with which nothing is wrong")
    if y.device.type == "cpu" and not (0 <= int(y.min()) and int(y.max()) < logits.shape[1]):
        raise UserError(f"labels must lie in 0..{logits.shape[1] - 1} (the model has {logits.shape[1]} outputs), "
                        f"got {int(y.min())}..{int(y.max())}")


def positive(value, name: str) -> float:
    """`value` as a finite float > 0, or UserError."""
    number = finite(value, name)
    if number <= 0:
        raise UserError(f"{name} must be greater than 0, got {value}")
    return number


def non_negative(value, name: str) -> float:
    """`value` as a finite float >= 0, or UserError."""
    number = finite(value, name)
    if number < 0:
        raise UserError(f"{name} must be at least 0, got {value}")
    return number


def finite(value, name: str) -> float:
    """`value` as a finite float, or UserError."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def at_least_one(value, name: str) -> int:
    """`value` as an int >= 1, or UserError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)
