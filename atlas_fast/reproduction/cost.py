"""What a run costs, in passes of one image through the network: for the time that is left and for estimates.

A forward pass counts 1, a backward pass to the input 1, one to the weights 1. The order of magnitude is what matters:
attacks drop images that are broken already, and the schedule may end a training early, so a cost is an upper bound.
"""

from __future__ import annotations

import re
import time

import torch

from .. import models
from ..training.config import Config
from ..training.defaults import TEST_STEPS
from . import runs
from .runs import Run

# (training, test images), classes, (channels, pixels); an npz or an imagefolder is taken for a CIFAR-10.
_CIFAR10 = ((50_000, 10_000), 10, (3, 32))
_SIZES = {"digits": ((1_433, 364), 10, (1, 8)), "mnist": ((60_000, 10_000), 10, (1, 28)),
          "cifar100": ((50_000, 10_000), 100, (3, 32))}
_HEAD = {"trades": 6, "atlas": 10, "atlas_l": 7, "atlas_g": 6, "tradesjac": 10, "jac": 7}  # passes of the loss itself
_RAYS, _AUTOATTACK, _UNKNOWN = 40_000, 10_000, 200


def training(config: Config) -> float:
    """Passes of a whole training with its validations and its test."""
    return config.epochs * epoch(config) + _test_images(config, None) * (2 * TEST_STEPS + 4)


def epoch(config: Config) -> float:
    (n_train, _), _, _ = _SIZES.get(config.dataset, _CIFAR10)
    n_val = config.validation_size or (5_000 if n_train >= 50_000 else n_train // 10)
    images = n_train - n_val
    if config.max_batches:
        images = min(images, config.max_batches * config.batch_size)
        n_val = min(n_val, config.max_batches * config.batch_size)
    crafting = config.steps * (3 if config.method in ("trades", "tradesjac") else 2)
    return images * (crafting + _HEAD.get(config.method, 3)) + n_val * (2 * config.val_steps + 4)


def evaluation(run: Run, attack: str) -> float:
    """Passes of one attack on the images that it sees."""
    config = run.config
    _, classes, _ = _SIZES.get(config.dataset, _CIFAR10)
    images = _test_images(config, run.limit)
    base, *numbers = re.sub(r"@.*", "", attack).split("-") if ":" not in attack else [attack]
    small = config.model == "small_cnn"
    defaults = {"untargeted": (50, 20) if small else (100, 10), "multitargeted": (50, 20) if small else (20, 5),
                "transfer": (1_000, 1), "pgd": (20, 1)}
    if base in defaults:
        given = [int(number) for number in numbers]
        steps, restarts = (*given, *defaults[base][len(given):])[:2]
        return images * 2 * steps * restarts * (classes - 1 if base == "multitargeted" else 1)
    if base == "rays":
        return min(images, 1_000) * (int(numbers[0]) if numbers else _RAYS)
    if base == "square":
        return images * (int(numbers[0]) if numbers else 5_000)
    return images * {"fgsm": 2, "autoattack": _AUTOATTACK}.get(base, _UNKNOWN if ":" in attack else 2_000)


def total(run: Run) -> float:
    return training(run.config) + sum(evaluation(run, attack) for attack in run.attacks)


def done(run: Run) -> float:
    """How much of `total` lies in the run's folder: finished epochs, finished attacks, batches of unfinished ones."""
    if run.trained:
        passes = training(run.config)
    else:
        log = run.folder / "log.jsonl"
        epochs = log.read_text().count("\n") if log.is_file() else 0
        passes = min(epochs, run.config.epochs) * epoch(run.config)
    for attack in run.attacks:
        if runs.measured(run, attack):
            passes += evaluation(run, attack)
        else:
            images = _test_images(run.config, run.limit)
            passes += evaluation(run, attack) * min(1.0, _images_done(run, attack) / images)
    return passes


def seconds_per_pass(config: Config, device: torch.device) -> float:
    """Measured: forward and backward of a few images through this network, the fastest of a second's tries."""
    _, classes, (channels, pixels) = _SIZES.get(config.dataset, _CIFAR10)
    images = 512 if device.type == "cuda" else 128 if config.model == "small_cnn" else 8
    model = models.create(config.model, classes, channels, pixels).to(device)
    x = torch.rand(images, channels, pixels, pixels, device=device, requires_grad=True)
    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < 1.0:
        started = time.perf_counter()
        model(x).sum().backward()
        assert x.grad is not None
        x.grad.sum().item()  # waits for the device
        taken.append(time.perf_counter() - started)
    return min(taken) / (3 * images)


def duration(seconds: float) -> str:
    """E.g. "40 s", "12 min", "3 h 20 min", "2 days 5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} day{'s' if hours >= 48 else ''} {hours % 24} h"


def _test_images(config: Config, limit: int | None) -> int:
    (_, n_test), _, _ = _SIZES.get(config.dataset, _CIFAR10)
    return n_test if limit is None else min(n_test, limit)


def _images_done(run: Run, attack: str) -> int:
    """Of an unfinished evaluation; its batches are files START-STOP.npz (evaluation/parts.py)."""
    from ..evaluation.parts import file_name

    found = 0
    for path in run.folder.glob(f"evaluation-*.parts/{file_name(attack)}/*-*.npz"):
        start, stop = path.stem.split("-")
        found += int(stop) - int(start)
    return found
