"""The crops and flips of CIFAR training, on the device, for a whole batch at once."""

from __future__ import annotations

import torch

from .. import ops


class CropFlip:
    """Random crop of the image padded with zeros, and random horizontal flip: (x, rng) -> x.

    x: images [N,C,H,W], any type; padding: pixels of zeros on every side (4 for CIFAR, as in He et al. 2016);
    flip: mirror half of the images. rng: int64[2] (seed, step); the same rng gives the same offsets on every device.
    """

    def __init__(self, padding: int = 4, flip: bool = True):
        self.padding = padding
        self.flip = flip

    def offsets(self, n: int, rng: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Down and right shifts in 0..2*padding and whether to mirror, int64, int64, bool, each [n]."""
        bits = ops.random_bits(rng, n, 3, purpose=ops.AUGMENT)
        span = 2 * self.padding + 1
        # bits is in [0, 2^32): the high word of bits*span is uniform in 0..span-1 to 2^-32 and needs no division.
        down, right = (bits[:, 0] * span) >> 32, (bits[:, 1] * span) >> 32
        mirror = (bits[:, 2] >> 31).bool() if self.flip else torch.zeros(n, dtype=torch.bool, device=bits.device)
        return down, right, mirror

    def __call__(self, x: torch.Tensor, rng: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        down, right, mirror = self.offsets(n, rng)
        rows = torch.arange(h, device=x.device) + down[:, None]
        columns = torch.arange(w, device=x.device).expand(n, w)
        columns = torch.where(mirror[:, None], w - 1 - columns, columns) + right[:, None]
        padded = torch.nn.functional.pad(x, (self.padding,) * 4)
        index = torch.arange(n, device=x.device)[:, None, None, None]
        channel = torch.arange(c, device=x.device)[None, :, None, None]
        out = padded[index, channel, rows[:, None, :, None], columns[:, None, None, :]]
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return out.contiguous(memory_format=torch.channels_last) if channels_last else out
