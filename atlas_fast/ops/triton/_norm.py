"""What the kernels of the three BatchNorm operations share: how the work is split, tiles, the mask, partial sums.

Channels-last activations are a matrix [rows, C], rows = samples x pixels. A program takes the tiles part, part + parts,
... of one group of samples in one block of channels. A first kernel leaves partial sums [groups, parts, K, C]; every
program of the second adds up those of its group and channels (no launch in between, no atomics, the same in every run)
and takes the same tiles in reverse order: those read last are still in the L2 cache.
"""

from math import isqrt
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ._common import INT32_LIMIT, compute, launch, like


class Plan(NamedTuple):
    """How a kernel is launched: bytes of a tile, channels of a tile, programs in all, warps of each, tiles on the way.
    """

    tile_bytes: int = 8192
    channels: int = 32
    programs: int = 264
    warps: int = 8
    stages: int = 3


# Chosen for an H200 (132 SMs, 4.3 TB/s, 50 MB of L2) and bfloat16, by calculation:
# - A thread takes two 16-byte loads of a tensor at a time. Left to itself ptxas often uses what one has brought before
#   it asks for the next; copied ahead into shared memory, two tiles of the three stages are always on the way: 32 KB an
#   SM for one tensor with two programs of 8 warps, 4 MB in all, which is what the memory needs at its latency.
# - Two programs an SM leave 128 registers a thread, which no bfloat16 kernel exceeds.
# - Every program of the second kernel reads the partial sums of its channels: programs^2 channels^2 4 K / (C groups)
#   bytes in all. Blocks of 32 channels, 64 bytes of a row, make that 4 MB at C = 128, where the tensor has 17 to 34 MB
#   and is read twice and written once; 64 channels would make it 17 MB.
# - Few rows for a program: at most sqrt(rows / 8) parts, so that partial sums cost a byte for an element at most; and
#   128 parts, so that they fit in registers.
PLAN = Plan()
_MAX_PARTS = 128


class Split(NamedTuple):
    """The launch arguments that follow from a plan and a tensor."""

    rows: int  # of a group
    channels: int
    groups: int
    parts: int  # programs that share the rows of a group in a block of channels
    tile_rows: int
    tile_channels: int
    warps: int
    stages: int

    @property
    def blocks(self) -> int:
        """Groups times blocks of channels."""
        return self.groups * triton.cdiv(self.channels, self.tile_channels)


def split(z: torch.Tensor, groups: int, plan: Plan | None = None) -> Split:
    """The work on z [N,C,H,W] under a plan (PLAN unless given): only sizes decide, so results repeat."""
    plan = plan or PLAN
    channels = z.shape[1]
    rows = z.numel() // (channels * groups)
    tile_channels = min(plan.channels, triton.next_power_of_2(channels))
    tile_rows = min(plan.tile_bytes // (z.element_size() * tile_channels), triton.next_power_of_2(rows))
    tiles = triton.cdiv(rows, tile_rows)
    blocks = groups * triton.cdiv(channels, tile_channels)
    parts = max(1, min(plan.programs // blocks, isqrt(rows // 8), _MAX_PARTS, tiles))
    parts = triton.cdiv(tiles, triton.cdiv(tiles, parts))  # none that would have fewer tiles than it could
    return Split(rows, channels, groups, parts, tile_rows, tile_channels, plan.warps, plan.stages)


def run(kernel, work: Split, *arguments, parts: int | None = None, **options) -> None:
    """Launch a kernel on the whole of `work`, or with parts=1 on one program a block, which adds up partial sums."""
    on = next(argument for argument in arguments if isinstance(argument, torch.Tensor))
    numel = work.rows * work.channels * work.groups
    launch(kernel, work.blocks * (parts or work.parts), on, *arguments, work.rows, work.channels, work.groups,
           work.parts, WIDE=numel + work.tile_rows * work.channels >= INT32_LIMIT, STAGES=work.stages,
           BLOCK_R=work.tile_rows, BLOCK_C=work.tile_channels, num_warps=work.warps, **options)


def partial_sums(work: Split, kinds: int, like: torch.Tensor) -> torch.Tensor:
    """Room for [groups, parts, kinds, C] in the dtype of `like`."""
    return like.new_empty(work.groups, work.parts, kinds, work.channels)


def served(z: torch.Tensor) -> bool:
    """Whether the kernels can take z: channels-last and not empty."""
    return z.numel() > 0 and z.is_contiguous(memory_format=torch.channels_last)


def as_rows(g: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(g in the memory order of z, 1), or where g is expanded over pixels ([N, C] of it, rows that share one)."""
    pixels = g.shape[2] * g.shape[3]
    if pixels > 1 and all(stride == 0 or size == 1 for stride, size in zip(g.stride()[2:], g.shape[2:], strict=True)):
        return g[:, :, 0, 0].contiguous(), pixels
    return like(g, z), 1


@triton.jit
def place(rows, channels, groups, WIDE: tl.constexpr, BLOCK_C: tl.constexpr):
    """(part, group, channels of the block, which of them exist, rows) of this program; 64-bit where WIDE."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    blocks = (channels + BLOCK_C - 1) // BLOCK_C
    channel = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    rest = program // blocks
    return rest // groups, rest % groups, channel, channel < channels, rows + program * 0


@triton.jit
def tile(index, group, rows, channels, channel, exists, BLOCK_R: tl.constexpr):
    """(rows of the matrix [BLOCK_R], their offsets and mask [BLOCK_R, BLOCK_C])."""
    row = index * BLOCK_R + tl.arange(0, BLOCK_R)
    at = group * rows + row
    return at, at[:, None] * channels + channel[None, :], (row < rows)[:, None] & exists[None, :]


@triton.jit
def load(pointer, offset, mask):
    """In the computing precision; 0 outside the mask."""
    return compute(tl.load(pointer + offset, mask, other=0.0))


@triton.jit
def load_shared(pointer, at, channels, channel, mask, PIXELS: tl.constexpr):
    """As `load`, of a matrix with one row for PIXELS rows (as_rows)."""
    return load(pointer, (at // PIXELS)[:, None] * channels + channel[None, :], mask)


@triton.jit
def add_stored(first, second, total, offset, mask):
    """first + second as stored in `total`, or first where there is no second."""
    value = load(first, offset, mask)
    if second is not None:
        rounded = (value + load(second, offset, mask)).to(total.dtype.element_ty)
        tl.store(total + offset, rounded, mask)
        value = compute(rounded)
    return value


@triton.jit
def parameter(pointer, channel, exists, default, like):
    """weight or bias of a block of channels, the default where there is none; `like`: a pointer to their dtype."""
    if pointer is None:
        return tl.full(channel.shape, default, like.dtype.element_ty)
    else:
        return tl.load(pointer + channel, exists, other=0.0)


@triton.jit
def normalised(z, mean, rstd):
    return (z - mean[None, :]) * rstd[None, :]


@triton.jit
def affine(yh, weight, bias):
    """Forward and backward call this, and the ReLU's mask is its sign: the backward's mask is the forward's."""
    return tl.fma(yh, tl.broadcast_to(weight[None, :], yh.shape), tl.broadcast_to(bias[None, :], yh.shape))


@triton.jit
def masked(value, yh, weight, bias, RELU: tl.constexpr):
    """value [affine > 0] with a ReLU; NaN lets through, as in threshold_backward."""
    if RELU:
        value = tl.where(affine(yh, weight, bias) <= 0, 0.0, value)
    return value


@triton.jit
def partial(partials, group, kind, channels, parts, channel, exists, KINDS: tl.constexpr, PARTS: tl.constexpr):
    """The partial sums [PARTS, BLOCK_C] of one kind; 0 beyond `parts`."""
    part = tl.arange(0, PARTS)
    offset = ((group * parts + part) * KINDS + kind)[:, None] * channels + channel[None, :]
    return tl.load(partials + offset, (part < parts)[:, None] & exists[None, :], other=0.0)


@triton.jit
def put_partial(partials, value, part, group, kind, channels, parts, channel, exists, KINDS: tl.constexpr):
    tl.store(partials + ((group * parts + part) * KINDS + kind) * channels + channel, value, exists)
