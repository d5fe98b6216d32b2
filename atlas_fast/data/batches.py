"""Batches of a data set that lies on the device: an epoch's order depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .. import ops
from ..errors import UserError
from .dataset import permutation


class Batches:
    """Shuffled training batches (x, y) of exactly batch_size images; what is left over of an epoch is dropped.

    images: uint8 or float32 [N,C,H,W]; labels: int64 [N]. They are kept on the device when they fill less than a
    third of its free memory (always on the CPU), otherwise pinned on the host and copied batch by batch.
    max_batches: at most so many batches an epoch. part: (i, n) yields the i-th of n equal, consecutive parts of each
    batch. UserError: fewer images than one batch, or a batch that n does not divide.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, batch_size: int, seed: int, device: torch.device,
                 max_batches: int | None = None, part: tuple[int, int] = (0, 1)):
        self._part = check_sizes(len(labels), batch_size, part)
        self.resident = fits(images, device)
        place = device if self.resident else torch.device("cpu")
        self.images, self.labels = images.to(place), labels.to(place)
        self.batch_size, self.seed, self.device, self.place = batch_size, seed, device, place
        self.channels_last = device.type == "cuda"
        self.count = min(len(labels) // batch_size, max_batches or len(labels))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.count

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of this epoch (0, 1, ...) from the first-th (0, 1, ...) on, on the device."""
        order = permutation(len(self.labels), self.seed, epoch, ops.SHUFFLE, self.place)
        for i in range(first, self.count):
            chosen = order[i * self.batch_size:(i + 1) * self.batch_size][self._part]
            x, y = self.images[chosen], self.labels[chosen]
            if not self.resident:
                x, y = (t.pin_memory().to(self.device, non_blocking=True) for t in (x, y))
            if self.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            yield x, y


def check_sizes(images: int, batch_size: int, part: tuple[int, int]) -> slice:
    """The rows of each batch that make its part. UserError: as of Batches."""
    if images < batch_size:
        raise UserError(f"a batch of {batch_size} is larger than the {images} training images; "
                        f"--batch-size must be at most {images}")
    index, parts = part
    if batch_size % parts:
        raise UserError(f"{parts} processes cannot share a batch of {batch_size} equally; --batch-size, which "
                        f"counts the images of all of them, must be a multiple of {parts}")
    return slice(index * batch_size // parts, (index + 1) * batch_size // parts)


def fits(images: torch.Tensor, device: torch.device) -> bool:
    """Whether the images fill less than a third of the device's free memory; the rest is for the network."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() < free / 3


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 -> float32 in [0,1]; float32 unchanged."""
    if images.dtype != torch.uint8:
        return images
    return ops.crop_flip(images, None, padding=0, flip=False) if images.dim() == 4 else images.float().div_(255)
