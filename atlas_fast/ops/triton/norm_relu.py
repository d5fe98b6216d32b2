"""BatchNorm of a residual sum, with a ReLU (see ops/norm_relu.py): statistics, then their use.

The statistics are Welford's in every lane of a tile and Chan's between lanes and programs, and each program subtracts
its first row before it rounds anything: a mean far larger than the deviation costs no digits. Given ones are used as
running ones are; where the statistics are all that is asked for, a small kernel puts the programs' together.
"""

import torch
import triton
import triton.language as tl

from .._arguments import compute_dtype
from ..norm_relu import norm_relu_reference
from . import _norm
from ._common import like, number_and_pointer, scalar
from ._norm import add_stored, affine, load, normalised, parameter, partial, place, put_partial, tile


@triton.jit
def _union(count, mean, m2):
    """(mean, sum of squared deviations) of all rows, each of `count` [rows, 1] values with these; row 0 has some."""
    base = tl.sum(tl.where((tl.arange(0, mean.shape[0]) == 0)[:, None], mean, 0.0), 0)
    shift = tl.where(count > 0, mean - base[None, :], 0.0)
    offset = tl.sum(count * shift, 0) / tl.sum(count, 0)
    rest = shift - offset[None, :]
    return base + offset, tl.sum(tl.fma(count * rest, rest, m2), 0)


@triton.jit
def _statistics(a, residual, z, partials, rows, channels, groups, parts, STAGES: tl.constexpr, WIDE: tl.constexpr,
                BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    part, group, channel, exists, rows = place(rows, channels, groups, WIDE, BLOCK_C)
    first = (group * rows + part * BLOCK_R) * channels + channel
    shift = load(a, first, exists)
    if residual is not None:
        shift += load(residual, first, exists)
    mean = tl.zeros([BLOCK_R, BLOCK_C], partials.dtype.element_ty)
    m2, count = mean, tl.zeros([BLOCK_R, 1], partials.dtype.element_ty)
    for index in tl.range(part, tl.cdiv(rows, BLOCK_R), parts, num_stages=STAGES):
        _, offset, mask = tile(index, group, rows, channels, channel, exists, BLOCK_R)
        value = add_stored(a, residual, z, offset, mask) - shift[None, :]
        count += (index * BLOCK_R + tl.arange(0, BLOCK_R) < rows)[:, None].to(count.dtype)
        delta = tl.where(mask, value - mean, 0.0)
        mean = tl.fma(delta, tl.broadcast_to(1.0 / tl.maximum(count, 1.0), delta.shape), mean)
        m2 = tl.fma(delta, value - mean, m2)
    mean, m2 = _union(count, mean, m2)
    put_partial(partials, mean + shift, part, group, 0, channels, parts, channel, exists, 2)
    put_partial(partials, m2, part, group, 1, channels, parts, channel, exists, 2)


@triton.jit
def _counts(rows, parts, dtype: tl.constexpr, BLOCK_R: tl.constexpr, PARTS: tl.constexpr):
    """Rows that each part has taken, [PARTS, 1]: whole tiles, the last one as far as there are rows."""
    part, tiles = tl.arange(0, PARTS), tl.cdiv(rows, BLOCK_R)
    count = tl.cdiv(tiles - part, parts) * BLOCK_R
    count -= tl.where((tiles - 1) % parts == part, tiles * BLOCK_R - rows, 0)
    return tl.where(part < parts, count, 0).to(dtype)[:, None]


@triton.jit
def _combined(partials, group, rows, channels, parts, channel, exists, BLOCK_R: tl.constexpr, PARTS: tl.constexpr):
    """(mean, biased variance) of a group, [BLOCK_C]."""
    count = _counts(rows, parts, partials.dtype.element_ty, BLOCK_R, PARTS)
    mean, m2 = _union(count, partial(partials, group, 0, channels, parts, channel, exists, 2, PARTS),
                      partial(partials, group, 1, channels, parts, channel, exists, 2, PARTS))
    return mean, m2 / tl.sum(count, 0)


@triton.jit
def _update_running(running_mean, running_var, new_mean, new_var, partials, momentum, rows, channels, groups, parts,
                    channel, exists, BLOCK_R: tl.constexpr, PARTS: tl.constexpr):
    """One step per group, in order; new_mean, new_var: of group 0.

    Loaded and stored once, because the threads that load a channel are not those that store it.
    """
    mean = tl.load(running_mean + channel, exists, other=0.0)
    var = tl.load(running_var + channel, exists, other=0.0)
    correction = rows.to(var.dtype) / (rows - 1).to(var.dtype)
    mean = momentum * new_mean + (1 - momentum) * mean
    var = momentum * (new_var * correction) + (1 - momentum) * var
    for group in range(1, groups):
        new_mean, new_var = _combined(partials, group, rows, channels, parts, channel, exists, BLOCK_R, PARTS)
        mean = momentum * new_mean + (1 - momentum) * mean
        var = momentum * (new_var * correction) + (1 - momentum) * var
    tl.store(running_mean + channel, mean, exists)
    tl.store(running_var + channel, var, exists)


@triton.jit
def _combine(mean_out, var_out, partials, rows, channels, groups, parts, PARTS: tl.constexpr, STAGES: tl.constexpr,
             WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    _, group, channel, exists, rows = place(rows, channels, groups, WIDE, BLOCK_C)
    mean, var = _combined(partials, group, rows, channels, parts, channel, exists, BLOCK_R, PARTS)
    tl.store(mean_out + group * channels + channel, mean, exists)
    tl.store(var_out + group * channels + channel, var, exists)


@triton.jit
def _apply(a, residual, z, out, mean_out, rstd_out, partials, given, weight, bias, running_mean, running_var, momentum,
           momentum_pointer, eps, eps_pointer, rows, channels, groups, parts, RELU: tl.constexpr, PARTS: tl.constexpr,
           STAGES: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    part, group, channel, exists, rows = place(rows, channels, groups, WIDE, BLOCK_C)
    if given is not None:
        mean = tl.load(given + group * channels + channel, exists, other=0.0)
        var = tl.load(given + (groups + group) * channels + channel, exists, other=0.0)
    elif partials is None:
        mean = tl.load(running_mean + channel, exists, other=0.0)
        var = tl.load(running_var + channel, exists, other=0.0)
    else:
        mean, var = _combined(partials, group, rows, channels, parts, channel, exists, BLOCK_R, PARTS)
        if running_mean is not None:
            if part + group == 0:
                _update_running(running_mean, running_var, mean, var, partials, scalar(momentum, momentum_pointer),
                                rows, channels, groups, parts, channel, exists, BLOCK_R, PARTS)
    rstd = tl.rsqrt(var + scalar(eps, eps_pointer))
    if part == 0:
        tl.store(mean_out + group * channels + channel, mean, exists)
        tl.store(rstd_out + group * channels + channel, rstd, exists)
    weight = parameter(weight, channel, exists, 1.0, mean_out)
    bias = parameter(bias, channel, exists, 0.0, mean_out)
    tiles = tl.cdiv(rows, BLOCK_R)
    for index in tl.range(part, tiles, parts, num_stages=STAGES):
        _, offset, mask = tile(tiles - 1 - index, group, rows, channels, channel, exists, BLOCK_R)
        value = affine(normalised(add_stored(a, residual, z, offset, mask), mean, rstd), weight, bias)
        if RELU:
            value = tl.where(value <= 0, 0.0, value)
        tl.store(out + offset, value.to(out.dtype.element_ty), mask)


def norm_relu(a, residual, weight, bias, running_mean, running_var, groups, batch_statistics, momentum, eps, relu,
              given, out_too):
    if not _norm.served(a):
        return norm_relu_reference(a, residual, weight, bias, running_mean, running_var, groups, batch_statistics,
                                   momentum, eps, relu, given, out_too)
    work, partials = _norm.split(a, groups), None
    out = torch.empty_like(a) if out_too else a.new_empty(0)
    mean, other = (a.new_empty(groups, a.shape[1], dtype=compute_dtype(a.dtype)) for _ in range(2))
    stored = a.new_empty(0) if residual is None else torch.empty_like(a)
    source, residual, z = (a, None, None) if residual is None else (a, like(residual, a), stored)
    total = {"PARTS": triton.next_power_of_2(work.parts)}
    if batch_statistics and given is None:
        partials = _norm.partial_sums(work, 2, mean)
        _norm.run(_statistics, work, source, residual, z, partials)
        if residual is not None:
            source, residual, z = z, None, None
    if not out_too:
        _norm.run(_combine, work, mean, other, partials, parts=1, **total)
    else:
        _norm.run(_apply, work, source, residual, z, out, mean, other, partials, given, weight, bias, running_mean,
                  running_var, *number_and_pointer(momentum, None, a), *number_and_pointer(eps, None, a), RELU=relu,
                  **total)
    return stored, out, mean, other
