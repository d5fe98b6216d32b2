"""Rows of normals from Philox words, divided by their length (see ops/unit_vectors.py).

Logarithm, cosine and sine are the polynomials of csrc/core/normal.h, so that no backend depends on a vendor's library.
"""

import torch
import triton
import triton.language as tl

from ._common import four, int32, launch, philox

_TILE = 512  # Philox counters per program: four normals each
TURN = tl.constexpr(6.2831853071795864769 * 2.0**-24)
UNIT = tl.constexpr(2.0**-24)


@triton.jit
def _log_unit(value):
    """Natural logarithm of a float32 in (0, 1]."""
    bits = value.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    x = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    z, k = x * x, exponent.to(tl.float32)
    p = x * 7.0376836292e-2 - 1.1514610310e-1
    p = p * x + 1.1676998740e-1
    p = p * x - 1.2420140846e-1
    p = p * x + 1.4249322787e-1
    p = p * x - 1.6668057665e-1
    p = p * x + 2.0000714765e-1
    p = p * x - 2.4999993993e-1
    p = p * x + 3.3333331174e-1
    tail = p * x * z - k * 2.12194440e-4 - z * 0.5
    return x + tail + k * 0.693359375


@triton.jit
def _cos_sin_turn(k):
    """cos and sin of 2 pi k 2^-24 for 0 <= k < 2^24: exact reduction to a quarter turn, then polynomials."""
    quarter = (k + 2097152) >> 22
    a = (k - (quarter << 22)).to(tl.float32) * TURN
    z = a * a
    sine = ((z * -1.9515295891e-4 + 8.3321608736e-3) * z - 1.6666654611e-1) * z * a + a
    cosine = ((z * 2.443315711809948e-5 - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - z * 0.5 + 1.0
    swap = (quarter & 1) == 1
    first, second = tl.where(swap, sine, cosine), tl.where(swap, cosine, sine)
    return (tl.where(((quarter + 1) & 2) == 2, -first, first), tl.where((quarter & 2) == 2, -second, second))


@triton.jit
def _normal_pair(word1, word2):
    u1 = ((word1 >> 8) + 1).to(tl.int32).to(tl.float32) * UNIT
    r2 = _log_unit(u1) * -2.0
    r = tl.sqrt(tl.where(r2 > UNIT, r2, UNIT))
    cosine, sine = _cos_sin_turn((word2 >> 8).to(tl.int32))
    return r * cosine, r * sine


@triton.jit
def _normals(rng, row, group, samples, sample_offset, purpose, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """[ROWS, 4 GROUPS] normals of the rows (draw, sample) and counters `group`."""
    draw, sample = row // samples, row % samples
    counter = group[None, :] + (row * 0)[:, None]
    w0, w1, w2, w3 = philox(rng, counter, (sample + sample_offset)[:, None], ((draw << 8) + purpose)[:, None])
    n0, n1 = _normal_pair(w0, w1)
    n2, n3 = _normal_pair(w2, w3)
    return four(n0, n1, n2, n3, ROWS, 4 * GROUPS)


@triton.jit(do_not_specialize=["rows", "samples", "classes", "sample_offset", "purpose"])
def _kernel(out, rng, rows, samples, classes, sample_offset, purpose, TILES: tl.constexpr, ROWS: tl.constexpr,
            GROUPS: tl.constexpr):
    """Rows of TILES tiles of 4 GROUPS normals; the first tile is kept, others are drawn again for the division."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group, column = tl.arange(0, GROUPS), tl.arange(0, 4 * GROUPS)
    normals = _normals(rng, row, group, samples, sample_offset, purpose, ROWS, GROUPS)
    squares = tl.where(column[None, :] < classes, normals * normals, 0.0)
    for tile in range(1, TILES):
        more = _normals(rng, row, tile * GROUPS + group, samples, sample_offset, purpose, ROWS, GROUPS)
        squares += tl.where((tile * 4 * GROUPS + column)[None, :] < classes, more * more, 0.0)
    length = tl.sqrt(tl.sum(squares, axis=1))[:, None]
    normals = tl.where(length > 0.0, normals, 1.0)  # a single class at an exact quarter turn: its cosine is 0
    length = tl.where(length > 0.0, length, 1.0)
    start = out + row.to(tl.int64)[:, None] * classes
    inside = (row < rows)[:, None]
    tl.store(start + column[None, :], normals / length, inside & (column < classes)[None, :])
    for tile in range(1, TILES):
        more = _normals(rng, row, tile * GROUPS + group, samples, sample_offset, purpose, ROWS, GROUPS)
        position = (tile * 4 * GROUPS + column)[None, :]
        tl.store(start + position, more / length, inside & (position < classes))


def unit_vectors(rng, samples, classes, draws, purpose, sample_offset):
    out = torch.empty((draws, samples, classes), dtype=torch.float32, device=rng.device)
    groups = min(triton.next_power_of_2(triton.cdiv(classes, 4)), _TILE)
    per_program = max(_TILE // 4 // groups, 1)
    launch(_kernel, triton.cdiv(draws * samples, per_program), out, out, rng.contiguous(), draws * samples, samples,
           classes, int32(sample_offset), int32(purpose), TILES=triton.cdiv(classes, 4 * groups), ROWS=per_program,
           GROUPS=groups)
    return out
