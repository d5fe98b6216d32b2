"""Crop, flip, gather and conversion to floats, a program per piece of one sample (see ops/crop_flip.py)."""

import torch
import triton
import triton.language as tl

from . import _common
from ._common import launch, philox

_PIECE = 1024


@triton.jit
def _uniform(word, span):
    """The high word of word * span, in 0..span-1."""
    return ((word.to(tl.uint64) * span.to(tl.uint64)) >> 32).to(tl.int32)


@triton.jit(do_not_specialize=["sample_offset", "purpose", "padding"])
def _kernel(x, out, rng, index, images, channels, height, width, sample_stride, channel_stride, row_stride,
            column_stride, purpose, sample_offset, padding, FLIP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
            WIDE: tl.constexpr, BLOCK: tl.constexpr):
    size = channels * height * width
    pieces = (size + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    sample = program // pieces
    element = program % pieces * BLOCK + tl.arange(0, BLOCK)
    inside = element < size
    if CHANNELS_LAST:
        channel, column, row = element % channels, element // channels % width, element // channels // width
    else:
        column, row, channel = element % width, element // width % height, element // width // height

    source_row, source_column = row, column
    if rng is not None:
        w0, w1, w2, _ = philox(rng, sample * 0, sample + sample_offset, purpose)
        span = 2 * padding + 1
        if FLIP:
            source_column = tl.where((w2 >> 31) == 1, width - 1 - column, column)
        source_row += _uniform(w0, span) - padding
        source_column += _uniform(w1, span) - padding
    image = sample.to(tl.int64)
    valid = inside
    if index is not None:
        image = tl.load(index + sample) + element * 0  # a block: the interpreter mixes no mask with a number
        valid = inside & (image >= 0) & (image < images)
    if WIDE:
        channel, source_row, source_column = channel.to(tl.int64), source_row.to(tl.int64), source_column.to(tl.int64)
    offset = channel * channel_stride + source_row * row_stride + source_column * column_stride
    seen = (source_row >= 0) & (source_row < height) & (source_column >= 0) & (source_column < width)
    value = tl.load(x + image * sample_stride + offset, valid & seen, other=0)
    if x.dtype.element_ty == tl.uint8:
        value = tl.div_rn(value.to(tl.float32), 255.0)
    value = tl.where(valid, value, float("nan"))
    tl.store(out + sample.to(tl.int64) * size + element, value.to(out.dtype.element_ty), inside)


def crop_flip(x, rng, padding, flip, index, channels_last, purpose, sample_offset):
    n = len(x if index is None else index)
    c, h, w = x.shape[1:]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((n, c, h, w), dtype=dtype, device=x.device, memory_format=memory_format)
    # Offsets within a sample, as far as the cropped part of the padding reaches.
    reach = sum((size + padding) * abs(stride) for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
    launch(_kernel, n * triton.cdiv(c * h * w, _PIECE), x, x, out, None if rng is None else rng.contiguous(), index,
           len(x), c, h, w, *x.stride(), _common.int32(purpose), _common.int32(sample_offset), padding, FLIP=flip,
           CHANNELS_LAST=channels_last, WIDE=max(reach, c * h * w) >= _common.INT32_LIMIT, BLOCK=_PIECE)
    return out
