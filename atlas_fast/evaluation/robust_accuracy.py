"""Clean and robust accuracy of a model on a data set, in batches, in eval mode and float precision."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from ..attacks.checks import at_least_one
from ..attacks.pgd import misclassified
from ..errors import UserError
from ..ops import make_rng
from .suite import create_attack


def evaluate(model, x: torch.Tensor, y: torch.Tensor, attacks: Sequence[str] = ("pgd-20",), eps: float = 8 / 255,
             step_size: float | None = None, batch_size: int = 256, seed: int = 0) -> dict:
    """Clean accuracy and robust accuracy under each attack.

    model: images [N, C, H, W] in [0, 1] -> logits; evaluated in eval mode and left in the mode it was in; x: images
    (uint8 0..255 or float in [0, 1]), y: int64 labels [N], on any device, moved batch by batch to the model's;
    attacks: names ("fgsm", "pgd-K", "pgd-K-R": K steps, R restarts); eps, step_size: pixel units, step_size for PGD,
    None: 2.5 eps / K. The random starts depend on seed and on the sample's index, not on batch_size.
    Returns {"n", "clean_accuracy", "attacks": {name: {"robust_accuracy", "settings", "seconds"}}}; accuracies in
    [0, 1]. A sample is robust when its label is predicted both at x and at x_adv: x lies in the ball too.
    Raises UserError for unknown attacks and for inputs that make no sense.
    """
    if isinstance(attacks, str):
        raise UserError(f"attacks must be a list of names, got {attacks!r}; write [{attacks!r}]")
    made = {name: create_attack(name, eps, step_size) for name in attacks}
    check_data(x, y)
    with eval_mode(model):
        correct = correct_samples(model, x, y, batch_size=batch_size)
        report = {"n": len(y), "clean_accuracy": correct.double().mean().item(), "attacks": {}}
        for name, attack in made.items():
            start = time.perf_counter()
            robust = correct & correct_samples(model, x, y, attack, batch_size, seed, label=name)
            report["attacks"][name] = {"robust_accuracy": robust.double().mean().item(),
                                       "settings": {**attack.settings, "seed": seed},
                                       "seconds": time.perf_counter() - start}
    return report


def robust_accuracy(model, x: torch.Tensor, y: torch.Tensor, attack: Callable, batch_size: int = 256, seed: int = 0,
                    label: str | None = None) -> tuple[float, float]:
    """(clean accuracy, robust accuracy) under one attack object, both in [0, 1]; see `evaluate`."""
    check_data(x, y)
    with eval_mode(model):
        correct = correct_samples(model, x, y, batch_size=batch_size)
        robust = correct & correct_samples(model, x, y, attack, batch_size, seed, label)
    return correct.double().mean().item(), robust.double().mean().item()


def correct_samples(model, x: torch.Tensor, y: torch.Tensor, attack: Callable | None = None, batch_size: int = 256,
                    seed: int = 0, label: str | None = None) -> torch.Tensor:
    """bool [N] on the CPU: y is predicted at x, or at attack(model, x, y). `label` names the progress bar."""
    device = model_device(model, x)
    rng = make_rng(seed, 0, device)
    results = []
    for start in _progress(range(0, len(x), at_least_one(batch_size, "batch_size")), label):
        images, labels = to_float(x[start:start + batch_size].to(device)), y[start:start + batch_size].to(device)
        if attack is not None:
            images = attack(model, images, labels, rng=rng, sample_offset=start)
        results.append(~misclassified(model, images, labels))
    return torch.cat(results).cpu()


def to_float(x: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 -> float32 in [0, 1]; float images as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def model_device(model, x: torch.Tensor) -> torch.device:
    """Where the model's parameters are; x's device for a model without any."""
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    return next((p.device for p in parameters), x.device)


@contextmanager
def eval_mode(model) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode is restored on exit."""
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [m.training for m in modules]
    if modules:
        model.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training


def check_data(x: torch.Tensor, y: torch.Tensor) -> None:
    """x: images [N, C, H, W], uint8 or float in [0, 1]; y: int64 [N]; N >= 1. Raises UserError. Synchronises."""
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise UserError(f"x must be uint8 or float images, got {x.dtype}")
    if x.dim() < 2 or len(x) == 0:
        raise UserError(f"x must be a set of images [N, C, H, W] with N >= 1, got shape {list(x.shape)}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise UserError(f"y must be int64 labels of shape [{len(x)}], got {y.dtype} of shape {list(y.shape)}")
    if x.dtype != torch.uint8:
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 1):
            raise UserError(f"images must lie in [0, 1], got values from {low:g} to {high:g}")


def _progress(batches: range, label: str | None):
    """A progress bar on a terminal, where tqdm is installed and there is something to wait for."""
    if label is None or len(batches) < 2 or not sys.stderr.isatty():
        return batches
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    return tqdm(batches, desc=label, unit="batch", leave=False)
