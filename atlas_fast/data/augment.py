"""The crops and flips of CIFAR training, on the device, for a whole batch at once."""

from __future__ import annotations

import torch

from .. import ops
from ..ops.crop_flip import offsets


class CropFlip:
    """Random crop of the image padded with zeros, and random horizontal flip: (x, rng) -> float images.

    x: images [N,C,H,W], uint8 0..255 (divided by 255) or float32; padding: pixels of zeros on every side (4 for CIFAR,
    as in He et al. 2016); flip: mirror half of the images. rng: int64[2] (seed, step); the same rng gives the same
    offsets on every device. memory_format: of the result, None: channels-last where x is;
    sample_offset: index of the first image within the step's whole batch.
    One pass over the images does all of it (see ops/crop_flip.py).
    """

    accepts_uint8 = True  # a training step hands over the images as they come, with the layout that its network wants
    capturable = True  # decides nothing on the host
    takes_sample_offset = True  # for a part of a batch

    def __init__(self, padding: int = 4, flip: bool = True):
        self.padding = padding
        self.flip = flip

    def offsets(self, n: int, rng: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Down and right shifts in 0..2*padding and whether to mirror, int64, int64, bool, each [n]."""
        return offsets(ops.random_bits(rng, n, 3, purpose=ops.AUGMENT), self.padding, self.flip)

    def __call__(self, x: torch.Tensor, rng: torch.Tensor,
                 memory_format: torch.memory_format | None = None, sample_offset: int = 0) -> torch.Tensor:
        if memory_format is None:
            channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return ops.crop_flip(x, rng, self.padding, self.flip, memory_format=memory_format,
                             sample_offset=sample_offset)
