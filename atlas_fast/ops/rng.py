"""Random numbers that depend on what they are for, not on when or where they are drawn.

Philox 4x32-10 (Salmon et al., SC 2011) maps a key and a counter to four 32-bit words. Here
    key     = the 64-bit seed,
    counter = (element // 4, sample, step, purpose | draw << 8),
where element is the logical (NCHW) index within a sample and word element % 4 of the result is used. So memory
layout, batch split over ranks, graph replay and resume leave every number as it was.

`rng` is an int64 tensor [2] = (seed, step) on the device of the data; whoever runs a training step advances `step`.
"""

from numbers import Integral

import torch

from ..errors import UserError
from ._arguments import check_tensors, whole
from ._registry import define

RANDOM_START, PROJECTION, SHUFFLE, AUGMENT, SPLIT, INIT, NOISE = range(7)
APGD, FAB, SQUARE = 8, 9, 10

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers and Weyl constants of Philox 4x32
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


def make_rng(seed: int, step: int = 0, device: torch.device | str = "cpu") -> torch.Tensor:
    """The state of a stream: int64 tensor [2] = (seed, step). seed: any 64-bit integer; step >= 0 (32 bits count)."""
    if not isinstance(seed, Integral) or not -(2**63) <= seed < 2**64:
        raise UserError(f"seed must be a whole number that fits in 64 bits, got {seed!r}")
    if not whole(step, 0):
        raise UserError(f"step must be a whole number of at least 0, got {step!r}")
    signed = seed - 2**64 if seed >= 2**63 else seed
    return torch.tensor([signed, step], dtype=torch.int64, device=device)


def stream(purpose: int, draw: int = 0) -> int:
    """The fourth counter word: what the numbers are for (0..255) and which draw of it (0..2^23-1)."""
    if not (whole(purpose, 0) and whole(draw, 0) and purpose < 256 and draw < 2**23):
        raise UserError(f"purpose must be in 0..255 and draw in 0..{2**23 - 1}, got {purpose} and {draw}")
    return purpose | draw << 8


def resolve_rng(rng: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """`rng` checked, or a fresh stream whose seed comes from torch's default CPU generator."""
    if rng is None:
        seed = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64)
        return torch.stack([seed, torch.zeros_like(seed)]).to(device)
    check_tensors("rng", rng)
    if rng.dtype != torch.int64 or rng.shape != (2,) or rng.device != device:
        raise UserError(f"rng must be an int64 tensor [2] (seed, step) on {device}, got {rng.dtype} {list(rng.shape)} "
                        f"on {rng.device}; atlas_fast.ops.make_rng makes one")
    return rng.contiguous()


def check_counter(purpose: int, sample_offset: int) -> None:
    """purpose: 32 bits (`stream`); sample_offset: a whole number. Raises UserError."""
    if not whole(purpose, 0) or purpose >= 2**32:
        raise UserError(f"purpose must be a whole number of 32 bits (atlas_fast.ops.stream makes one), got {purpose!r}")
    if not whole(sample_offset, -(2**62)) or sample_offset >= 2**62:
        raise UserError(f"sample_offset must be a whole number of at most 62 bits, got {sample_offset!r}")


def philox_reference(key: tuple, counter: tuple, rounds: int = 10) -> tuple[torch.Tensor, ...]:
    """Philox 4x32 in int64 tensors holding unsigned 32-bit words: key (k0, k1), counter (c0, c1, c2, c3) -> 4 words."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(rounds):
        # The 64-bit product wraps as two's complement; its upper half is still right after masking.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def words_reference(rng: torch.Tensor, samples: int, n: int, purpose: int, sample_offset: int) -> torch.Tensor:
    """Words of `samples` samples with n elements each: int64 [samples, n] in [0, 2^32)."""
    device = rng.device
    sample = (torch.arange(samples, device=device) + sample_offset)[:, None] & _MASK
    group = torch.arange((n + 3) // 4, device=device)[None, :]
    zero = torch.zeros((samples, (n + 3) // 4), dtype=torch.int64, device=device)
    seed, step = rng[0], rng[1] & _MASK
    counter = (zero + group, zero + sample, zero + step, zero + purpose)
    words = philox_reference((zero + (seed & _MASK), zero + ((seed >> 32) & _MASK)), counter)
    return torch.stack(words, dim=-1).flatten(1)[:, :n].contiguous()


def uniform_reference(rng: torch.Tensor, samples: int, n: int, purpose: int, sample_offset: int) -> torch.Tensor:
    """24-bit uniforms in [0, 1), float32 [samples, n]: (word >> 8) * 2^-24."""
    return (words_reference(rng, samples, n, purpose, sample_offset) >> 8).float() * 2.0**-24


def random_bits_reference(rng, samples, n, purpose=0, sample_offset=0):
    """The definition of `random_bits`."""
    return words_reference(rng, samples, n, purpose, sample_offset)


def _fake(rng, samples, n, purpose, sample_offset):
    return rng.new_empty((samples, n))


_op = define("random_bits", "(Tensor rng, int samples, int n, int purpose, int sample_offset) -> Tensor",
             random_bits_reference, _fake)


def random_bits(rng: torch.Tensor, samples: int, n: int, purpose: int = 0, sample_offset: int = 0) -> torch.Tensor:
    """Raw Philox words, int64 [samples, n] in [0, 2^32), on the device of `rng`.

    purpose: fourth counter word (`stream(purpose, draw)`); sample_offset: global index of the first sample.
    """
    if not whole(samples, 0) or not whole(n, 0):
        raise UserError(f"random_bits needs whole numbers samples >= 0 and n >= 0, got {samples!r} and {n!r}")
    check_tensors("random_bits", rng)
    check_counter(purpose, sample_offset)
    return _op(resolve_rng(rng, rng.device), samples, n, purpose, sample_offset)
