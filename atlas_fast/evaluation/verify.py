"""Nothing an attack says is believed: its images are checked and the model is asked again, in float32, in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..attacks.checks import check_logits, explained
from ..errors import UserError

TOLERANCE = 1e-6  # of the ball and of [0, 1]; a float32 image near 1 is itself 6e-8 off


@torch.no_grad()
def predict(model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """int64 [N]: the class of the largest logit, -1 (never right) where a logit is NaN.

    x: float images [N, ...]; y: labels, checked against the number of logits. In eval mode, without autocast and
    without TF32: an adversary counts by what the network computes, not by the rounding of a fast mode.
    """
    with eval_mode(model), torch.autocast(x.device.type, enabled=False), _no_tf32(), explained(model, x):
        logits = model(x)
    check_logits(logits, y)
    return torch.where(logits.isnan().any(1), -1, logits.argmax(1))


def checked_images(x_adv, x: torch.Tensor, eps: float | None, norm: str, name: str) -> torch.Tensor:
    """x_adv as images like x, detached. UserError where they are none, or outside [0, 1] or the ball (eps None: any).

    Synchronises.
    """
    def refuse(what: str):
        raise UserError(f"the attack {name!r} returned {what}")

    if not isinstance(x_adv, torch.Tensor):
        refuse(f"{type(x_adv).__name__} instead of a tensor of images like x")
    if x_adv.shape != x.shape or not x_adv.is_floating_point():
        refuse(f"{x_adv.dtype} of shape {list(x_adv.shape)} instead of float images {list(x.shape)}")
    x_adv = x_adv.detach().to(device=x.device, dtype=x.dtype)
    if not bool(x_adv.isfinite().all()):
        refuse("images with NaN or infinite pixels")
    low, high = float(x_adv.min()), float(x_adv.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        refuse(f"images outside [0, 1]: values from {low:.7g} to {high:.7g}")
    if eps is not None:
        far = float(distance(x_adv, x, norm).max())
        if far > eps + TOLERANCE:
            refuse(f"images at distance {far:.7g} from x in {norm}, but eps is {eps:.7g}")
    return x_adv


def distance(a: torch.Tensor, b: torch.Tensor, norm: str) -> torch.Tensor:
    """||a - b|| per sample in Linf or L2, float64 [N]."""
    difference = (a.double() - b.double()).flatten(1)
    return difference.abs().amax(1) if norm == "Linf" else difference.norm(dim=1)


@contextmanager
def eval_mode(model) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode is restored on exit."""
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [m.training for m in modules]
    if any(modes):
        model.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Convolutions and matrix products on a GPU keep float32's 24 bits inside."""
    if not torch.cuda.is_available():
        yield
        return
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
