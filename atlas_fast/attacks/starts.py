"""Points near x that are drawn at random otherwise than `ops.random_start` (uniform in the eps-ball and in [0, 1])."""

import torch

from .. import ops


def random_signs(x: torch.Tensor, radius, rng: torch.Tensor, sample_offset: int = 0) -> torch.Tensor:
    """clip(x + radius s, 0, 1), s = +1 or -1 with equal chances for every pixel (Sriramanan et al. 2021).

    x: images [N, ...] in [0, 1]; radius: pixel units, a number or a 0-d tensor on the device; rng: int64 [2] (seed,
    step). Strides as x. Drawn in logical (NCHW) order, for the purpose RANDOM_START.
    """
    signs = 1 - 2 * (_words(x, rng, ops.RANDOM_START, sample_offset) >> 31)
    return _moved(x, radius, signs).clamp_(0, 1)


def random_noise(x: torch.Tensor, radius, rng: torch.Tensor, sample_offset: int = 0) -> torch.Tensor:
    """x + radius (2u - 1), u ~ U[0, 1), not clipped to [0, 1] (Andriushchenko and Flammarion 2020); for the purpose
    NOISE. Arguments as of `random_signs`."""
    words = _words(x, rng, ops.NOISE, sample_offset)
    return _moved(x, radius, (words >> 8).to(x.dtype) * 2.0**-23 - 1)


def _words(x, rng, purpose, sample_offset):
    return ops.random_bits(rng, len(x), x[0].numel(), purpose, sample_offset).view(x.shape)


def _moved(x, radius, noise):
    return torch.empty_like(x).copy_(x + radius * noise.to(x.dtype))
