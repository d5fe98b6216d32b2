"""What a data set is, and the checks that every one of them passes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from .. import ops
from ..errors import UserError
from .image_files import ImageFiles, rows_of


@dataclass
class Dataset:
    """Images, in memory or still in their files, and labels.

    *_images: uint8 [N,C,H,W] (0..255), or float32 in [0,1], or ImageFiles. *_labels: int64 [N] in 0..num_classes-1.
    val: a data set's own validation images and labels, or None. classes: their names, where known.
    """

    name: str
    train_images: torch.Tensor | ImageFiles
    train_labels: torch.Tensor
    test_images: torch.Tensor | ImageFiles
    test_labels: torch.Tensor
    num_classes: int
    val: tuple[torch.Tensor | ImageFiles, torch.Tensor] | None = None
    classes: list[str] = field(default_factory=list)

    @property
    def in_channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        """Height = width in pixels."""
        return self.train_images.shape[2]


def split_validation(data: Dataset, size: int | None, seed: int) -> Dataset:
    """Move `size` random training images to `val`; which ones depends on the seed alone.

    size=None takes 5,000 (the paper, appendix B), or a tenth of a set of fewer than 50,000.
    A data set that brings its own validation images keeps them; asking for a size is then a UserError.
    """
    if data.val is not None:
        if size is not None:
            raise UserError(f"{data.name} has its own {len(data.val[1])} validation images; "
                            "leave --validation-size away")
        return data
    n = len(data.train_labels)
    if size is None:
        size = 5000 if n >= 50_000 else max(1, n // 10)
    if not 1 <= size < n:
        raise UserError(f"the validation size must lie between 1 and {n - 1} (of {n} training images), not {size}")
    order = permutation(n, seed, 0, ops.SPLIT)
    val, train = order[:size].sort().values, order[size:].sort().values
    return replace(data, train_images=rows_of(data.train_images, train), train_labels=data.train_labels[train],
                   val=(rows_of(data.train_images, val), data.train_labels[val]))


def limit_evaluation(data: Dataset, size: int, seed: int) -> Dataset:
    """At most `size` validation and test images, drawn by the seed (files may be sorted by class); for trials."""

    def part(images: torch.Tensor | ImageFiles, labels: torch.Tensor) -> tuple[torch.Tensor | ImageFiles, torch.Tensor]:
        chosen = permutation(len(labels), seed, 1, ops.SPLIT)[:size].sort().values
        return rows_of(images, chosen), labels[chosen]

    test_images, test_labels = part(data.test_images, data.test_labels)
    return replace(data, test_images=test_images, test_labels=test_labels, val=data.val and part(*data.val))


def permutation(n: int, seed: int, step: int, purpose: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """A random order of 0..n-1, int64 [n]: the ranks of n Philox words keyed by (seed, step, purpose)."""
    words = ops.random_bits(ops.make_rng(seed, step, device), 1, n, purpose=purpose)
    return words[0].argsort(stable=True)
