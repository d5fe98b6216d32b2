"""Run attacks over a set of images, batch by batch, and keep what happened to every image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from .. import ops
from ..attacks.checks import at_least_one
from ..attacks.model_checks import check_model
from ..data import ImageFiles, to_float
from ..data.dataset import permutation
from ..engine import FastNetwork, Ranks
from ..errors import UserError
from .parts import Parts
from .progress import Bar
from .samples import EXAMPLES, AttackResult
from .suite import Planned
from .verify import checked_images, distance, eval_mode, predict

_BATCH_KEYS = ("broken", "prediction", "linf", "l2", "kept", "adversaries", "seconds", "warnings")
_DETAIL = "detail/"
_LOOKED_AT = 128  # images on which the model itself is checked


@dataclass(frozen=True)
class Evaluation:
    """A model and the images [N, C, H, W] (uint8, or float in [0, 1]) and labels int64 [N] it is judged by.

    seed: of random starts and subsets; keep_all: keep every adversary, not EXAMPLES of each attack; show: draw a
    progress bar; parts: where finished batches are kept until the evaluation is over; ranks: the processes that share
    the batches, all of which call the same methods and get the same results. A batch holds the same images on any
    number of them, and these their own random numbers, so that nothing but the seconds depends on how many there are.
    """

    model: object
    x: torch.Tensor | ImageFiles
    y: torch.Tensor
    batch_size: int = 256
    seed: int = 0
    keep_all: bool = False
    show: bool = False
    parts: Parts | None = None
    ranks: Ranks = Ranks.alone()

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are; x's device for a model without any."""
        parameters = self.model.parameters() if isinstance(self.model, torch.nn.Module) else iter(())
        return next((p.device for p in parameters), self.x.device)

    @cached_property
    def network(self) -> FastNetwork:
        """The model as the package's attacks take it: folded, explicit passes, recorded on a GPU."""
        with eval_mode(self.model):
            return FastNetwork(self.model)

    def predictions(self) -> np.ndarray:
        """int64 [N]: the classes predicted at the images."""
        mine = {start: self._predict(*self.images(slice(start, start + self._step)))
                for start in self.ranks.share_out(range(0, len(self.y), self._step))}
        return np.concatenate(list(self.ranks.exchange(mine).values()))

    def about_model(self) -> list[str]:
        """Sentences: why attacks by gradients may flatter this model, as far as some of the images show it."""
        x, y = self.images(subset(len(self.y), _LOOKED_AT, self.seed))
        try:
            with eval_mode(self.model):
                return check_model(self.model, x, y)
        except RuntimeError as error:  # of a model for one size of batch, say
            return [f"the model could not be checked for masked gradients: {str(error).splitlines()[0]}"]

    def attack(self, name: str, planned: Planned, correct: np.ndarray) -> AttackResult:
        """What the attack does to the images. correct: bool [N], right without an attack."""
        index, step = subset(len(self.y), planned.images, self.seed), self._step * planned.batches
        rows = {start: index[start:start + step] for start in range(0, len(index), step)}
        batches = self._finished(name, planned, rows)
        mine = self.ranks.share_out(start for start in rows if start not in batches)
        bar = Bar(name if self.show else None, sum(len(rows[start]) for start in (*batches, *mine)))
        try:
            for start, batch in batches.items():
                bar.add(len(rows[start]), _robust(correct[rows[start]], batch), resumed=True)
            made = {}
            for start in mine:
                made[start] = self._attack_batch(name, planned, rows[start], start, correct)
                if self.parts:
                    self.parts.save(name, start, start + len(rows[start]), made[start])
                bar.add(len(rows[start]), _robust(correct[rows[start]], made[start]), resumed=False)
        finally:
            bar.close()
        batches |= self.ranks.exchange(made)
        return _joined([batches[start] for start in rows], index, planned, None if self.keep_all else EXAMPLES)

    def _finished(self, name, planned, rows: dict[int, np.ndarray]) -> dict[int, dict[str, np.ndarray]]:
        """The batches that an earlier start has made, read by the first process; the attack's folder is there then."""
        if not self.parts:
            return {}
        found = {}
        if self.ranks.leads:
            self.parts.begin(name, planned.key)
            found = {start: self.parts.load(name, start, start + len(some)) for start, some in rows.items()}
        return self.ranks.exchange({start: batch for start, batch in found.items() if batch is not None})

    def _attack_batch(self, name, planned, rows, start, correct) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        x, y = self.images(rows)
        model = self.network if planned.takes_network else self.model
        with eval_mode(self.model):
            x_adv = planned.attack(model, x, y, rng=ops.make_rng(self.seed, 0, x.device), sample_offset=start)
        x_adv = checked_images(x_adv, x, planned.eps, planned.norm, name)
        prediction = self._predict(x_adv, y)
        broken = prediction != y.cpu().numpy()
        kept = np.flatnonzero(broken & correct[rows])[:EXAMPLES]
        if self.keep_all:
            kept = np.arange(len(rows))
        details = {_DETAIL + key: _per_image(value, len(rows), f"{name}'s {key}")
                   for key, value in (getattr(planned.attack, "details", None) or {}).items()}
        return {"broken": broken, "prediction": prediction, "kept": kept,
                "linf": distance(x_adv, x, "Linf").float().cpu().numpy(),
                "l2": distance(x_adv, x, "L2").float().cpu().numpy(),
                "adversaries": x_adv[torch.from_numpy(kept).to(x_adv.device)].float().cpu().numpy(),
                "seconds": np.array(time.perf_counter() - began),
                "warnings": np.array(list(getattr(planned.attack, "warnings", None) or ()), dtype=np.str_), **details}

    def _predict(self, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
        """By the model itself, batch_size images at a time."""
        return torch.cat([predict(self.model, *pair) for pair in zip(x.split(self._step), y.split(self._step),
                                                                     strict=True)]).cpu().numpy()

    @property
    def _step(self) -> int:
        return at_least_one(self.batch_size, "batch_size")

    def images(self, rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Float images and labels of these rows on the model's device."""
        return to_float(self.x[rows].detach().to(self.device)), self.y[rows].to(self.device)


def subset(n: int, images: int | None, seed: int) -> np.ndarray:
    """int64: all of 0..n-1, or `images` of them drawn by the seed (files may be sorted by class), in order."""
    if images is None or images >= n:
        return np.arange(n)
    return permutation(n, seed, 0, ops.SHUFFLE)[:images].sort().values.numpy()


def _per_image(value, n: int, what: str) -> np.ndarray:
    """What an attack tells, an entry an image, as an array that needs no pickle. UserError where it is something else.
    """
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype == object or array.shape[:1] != (n,):
        raise UserError(f"{what} must have an entry for each of {n} images, got {array.dtype} {list(array.shape)}")
    return array


def _robust(correct: np.ndarray, batch: dict[str, np.ndarray]) -> int:
    return int((correct & ~batch["broken"]).sum())


def _joined(batches: list[dict], index: np.ndarray, planned: Planned, examples: int | None) -> AttackResult:
    """One result from those of its batches. examples: how many adversaries to keep, the first ones; None: all."""
    lengths = np.cumsum([0] + [len(batch["broken"]) for batch in batches[:-1]])
    join = {key: np.concatenate([batch[key] for batch in batches])
            for key in ("broken", "prediction", "linf", "l2")}
    kept = np.concatenate([batch["kept"] + first for batch, first in zip(batches, lengths, strict=True)])
    details = [key for key in batches[0] if key not in _BATCH_KEYS]
    return AttackResult(
        settings=planned.settings, index=index, black_box=planned.black_box, **join, kept=kept[:examples],
        adversaries=np.concatenate([batch["adversaries"] for batch in batches])[:examples],
        seconds=float(sum(batch["seconds"] for batch in batches)),
        warnings=list(dict.fromkeys(str(line) for batch in batches for line in batch["warnings"])),
        details={key.removeprefix(_DETAIL): np.concatenate([batch[key] for batch in batches]) for key in details})


def check_data(x: torch.Tensor | ImageFiles, y: torch.Tensor) -> None:
    """x: images [N, C, H, W], uint8 or float in [0, 1]; y: int64 [N]; N >= 1. Raises UserError. Synchronises."""
    if not isinstance(x, (torch.Tensor, ImageFiles)) or not isinstance(y, torch.Tensor):
        raise UserError(f"x and y must be tensors, got {type(x).__name__} and {type(y).__name__}")
    if x.dtype not in (torch.uint8, torch.float32, torch.float64):
        raise UserError(f"x must be uint8 or float images (float32 or float64; others are too coarse), got {x.dtype}")
    if x.dim() < 2 or len(x) == 0:
        raise UserError(f"x must be a set of images [N, C, H, W] with N >= 1, got shape {list(x.shape)}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise UserError(f"y must be int64 labels of shape [{len(x)}], got {y.dtype} of shape {list(y.shape)}")
    if not isinstance(x, ImageFiles) and x.dtype != torch.uint8:
        low, high = (float(v) for v in x.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise UserError(f"images must lie in [0, 1], got values from {low:g} to {high:g}")
