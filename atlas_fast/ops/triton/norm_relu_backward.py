"""The adjoint of norm_relu (see ops/norm_relu_backward.py): sums, then dz. With running statistics dz needs no sums,
so that the first kernel writes it and the second, where the sums are wanted, only adds them up. With given sums the
second kernel is all there is."""

import torch
import triton
import triton.language as tl

from ..norm_relu_backward import norm_relu_backward_reference, sums_wanted
from . import _norm
from ._common import like
from ._norm import load, load_shared, masked, normalised, parameter, partial, place, put_partial, tile


@triton.jit
def _store_dz(dz, value, residual_adjoint, extra, extra_rows, at, offset, mask):
    """value + residual_adjoint + extra (which has the first extra_rows rows), rounded once."""
    if residual_adjoint is not None:
        value += load(residual_adjoint, offset, mask)
    if extra is not None:
        value += load(extra, offset, mask & (at < extra_rows)[:, None])
    tl.store(dz + offset, value.to(dz.dtype.element_ty), mask)


@triton.jit
def _reduce(g, z, mean, rstd, weight, bias, residual_adjoint, extra, extra_rows, dz, partials, rows, channels, groups,
            parts, RELU: tl.constexpr, PIXELS: tl.constexpr, STAGES: tl.constexpr, WIDE: tl.constexpr,
            BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    part, group, channel, exists, rows = place(rows, channels, groups, WIDE, BLOCK_C)
    weight = parameter(weight, channel, exists, 1.0, mean)
    bias = parameter(bias, channel, exists, 0.0, mean)
    sum_d = tl.zeros([BLOCK_R, BLOCK_C], mean.dtype.element_ty)
    sum_d_yh = sum_d
    mean = tl.load(mean + group * channels + channel, exists, other=0.0)
    rstd = tl.load(rstd + group * channels + channel, exists, other=0.0)
    for index in tl.range(part, tl.cdiv(rows, BLOCK_R), parts, num_stages=STAGES):
        at, offset, mask = tile(index, group, rows, channels, channel, exists, BLOCK_R)
        yh = normalised(load(z, offset, mask), mean, rstd)
        d = masked(load_shared(g, at, channels, channel, mask, PIXELS), yh, weight, bias, RELU)
        if dz is not None:
            _store_dz(dz, d * (weight * rstd)[None, :], residual_adjoint, extra, extra_rows, at, offset, mask)
        if partials is not None:
            sum_d += d
            sum_d_yh = tl.fma(d, yh, sum_d_yh)
    if partials is not None:
        put_partial(partials, tl.sum(sum_d, 0), part, group, 0, channels, parts, channel, exists, 2)
        put_partial(partials, tl.sum(sum_d_yh, 0), part, group, 1, channels, parts, channel, exists, 2)


@triton.jit
def _total(partials, group, kind, channels, parts, channel, exists, PARTS: tl.constexpr):
    return tl.sum(partial(partials, group, kind, channels, parts, channel, exists, 2, PARTS), 0)


@triton.jit
def _accumulate(grad, first, partials, kind, channels, groups, parts, channel, exists, PARTS: tl.constexpr):
    """grad += the sums of all groups; `first`: that of group 0."""
    if grad is not None:
        total = tl.load(grad + channel, exists, other=0.0) + first
        for group in range(1, groups):
            total += _total(partials, group, kind, channels, parts, channel, exists, PARTS)
        tl.store(grad + channel, total, exists)


@triton.jit
def _apply(g, z, mean, rstd, weight, bias, residual_adjoint, extra, extra_rows, dz, partials, sums, grad_weight,
           grad_bias, rows, channels, groups, parts, RELU: tl.constexpr, PIXELS: tl.constexpr, PARTS: tl.constexpr,
           STAGES: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    part, group, channel, exists, rows = place(rows, channels, groups, WIDE, BLOCK_C)
    if partials is None:
        sum_d = tl.load(sums + group * channels + channel, exists, other=0.0)
        sum_d_yh = tl.load(sums + (groups + group) * channels + channel, exists, other=0.0)
    else:
        sum_d = _total(partials, group, 0, channels, parts, channel, exists, PARTS)
        sum_d_yh = _total(partials, group, 1, channels, parts, channel, exists, PARTS)
        if part == 0:
            tl.store(sums + group * channels + channel, sum_d, exists)
            tl.store(sums + (groups + group) * channels + channel, sum_d_yh, exists)
            if group == 0:
                _accumulate(grad_bias, sum_d, partials, 0, channels, groups, parts, channel, exists, PARTS)
                _accumulate(grad_weight, sum_d_yh, partials, 1, channels, groups, parts, channel, exists, PARTS)
    if dz is not None:
        weight = parameter(weight, channel, exists, 1.0, mean)
        bias = parameter(bias, channel, exists, 0.0, mean)
        mean = tl.load(mean + group * channels + channel, exists, other=0.0)
        rstd = tl.load(rstd + group * channels + channel, exists, other=0.0)
        count = rows.to(mean.dtype)
        m_d, m_d_yh, scale = (sum_d / count)[None, :], (sum_d_yh / count)[None, :], (weight * rstd)[None, :]
        tiles = tl.cdiv(rows, BLOCK_R)
        for index in tl.range(part, tiles, parts, num_stages=STAGES):
            at, offset, mask = tile(tiles - 1 - index, group, rows, channels, channel, exists, BLOCK_R)
            yh = normalised(load(z, offset, mask), mean, rstd)
            d = masked(load_shared(g, at, channels, channel, mask, PIXELS), yh, weight, bias, RELU)
            _store_dz(dz, scale * (d - m_d - yh * m_d_yh), residual_adjoint, extra, extra_rows, at, offset, mask)


def norm_relu_backward(g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias, groups,
                       batch_statistics, relu, input_too, given):
    if not _norm.served(z):
        return norm_relu_backward_reference(
            g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias, groups, batch_statistics,
            relu, input_too, given)
    work = _norm.split(z, groups)
    wanted = sums_wanted(grad_weight, grad_bias, batch_statistics, input_too, given)
    sums = mean.new_empty((2, *mean.shape) if wanted else 0)
    partials = _norm.partial_sums(work, 2, mean) if wanted else None
    dz = torch.empty_like(z) if input_too else None
    g, pixels = _norm.as_rows(g, z)
    inputs = (g, z, mean, rstd, weight, bias)
    nothing: tuple = (None, None, 0, None)
    write = nothing
    if input_too:
        extra_rows = 0 if extra is None else extra.numel() // z.shape[1]
        write = (None if residual_adjoint is None else like(residual_adjoint, z),
                 None if extra is None else like(extra, z[:len(extra)]), extra_rows, dz)
    early, late = (nothing, write) if batch_statistics else (write, nothing)
    options = {"RELU": relu, "PIXELS": pixels}
    if given is not None:
        _norm.run(_apply, work, *inputs, *write, None, given, None, None, PARTS=1, **options)
        return dz, sums
    _norm.run(_reduce, work, *inputs, *early, partials, **options)
    if wanted:
        _norm.run(_apply, work, *inputs, *late, partials, sums, grad_weight, grad_bias,
                  parts=None if late[-1] is not None else 1, PARTS=triton.next_power_of_2(work.parts), **options)
    return dz if input_too else z.new_empty(0), sums
