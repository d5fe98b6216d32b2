"""The adjoint of norm_relu_backward (see ops/norm_relu_tangent.py): sums, then the adjoints of g and z. With running
statistics the first kernel writes the adjoint of g, and the second only adds up that of weight, where it is wanted.
Where the sums are all that is asked for the second kernel adds them up; with given ones it is all there is."""

import torch
import triton
import triton.language as tl

from ..norm_relu_tangent import norm_relu_tangent_reference
from . import _norm
from ._common import like
from ._norm import (
    add_stored,
    load,
    load_shared,
    masked,
    normalised,
    parameter,
    partial,
    place,
    put_partial,
    tile,
)


@triton.jit
def _reduce(t, t_residual, tz, g, z, mean, rstd, weight, bias, out, partials, rows, channels, groups, parts,
            RELU: tl.constexpr, PIXELS: tl.constexpr, STAGES: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr,
            BLOCK_C: tl.constexpr):
    part, group, channel, exists, rows = place(rows, channels, groups, WIDE, BLOCK_C)
    weight = parameter(weight, channel, exists, 1.0, mean)
    bias = parameter(bias, channel, exists, 0.0, mean)
    sum_t = tl.zeros([BLOCK_R, BLOCK_C], mean.dtype.element_ty)
    sum_t_yh, sum_t_d = sum_t, sum_t
    mean = tl.load(mean + group * channels + channel, exists, other=0.0)
    rstd = tl.load(rstd + group * channels + channel, exists, other=0.0)
    for index in tl.range(part, tl.cdiv(rows, BLOCK_R), parts, num_stages=STAGES):
        at, offset, mask = tile(index, group, rows, channels, channel, exists, BLOCK_R)
        tangent = add_stored(t, t_residual, tz, offset, mask)
        yh = normalised(load(z, offset, mask), mean, rstd)
        if out is not None:
            value = masked((weight * rstd)[None, :] * tangent, yh, weight, bias, RELU)
            tl.store(out + offset, value.to(out.dtype.element_ty), mask)
        if partials is not None:
            d = masked(load_shared(g, at, channels, channel, mask, PIXELS), yh, weight, bias, RELU)
            sum_t += tangent
            sum_t_yh = tl.fma(tangent, yh, sum_t_yh)
            sum_t_d = tl.fma(tangent, d, sum_t_d)
    if partials is not None:
        put_partial(partials, tl.sum(sum_t, 0), part, group, 0, channels, parts, channel, exists, 3)
        put_partial(partials, tl.sum(sum_t_yh, 0), part, group, 1, channels, parts, channel, exists, 3)
        put_partial(partials, tl.sum(sum_t_d, 0), part, group, 2, channels, parts, channel, exists, 3)


@triton.jit
def _total(partials, t_sums, group, kind, channels, groups, parts, channel, exists, PARTS: tl.constexpr):
    """A sum of a group: of its partial ones, or where there are none as given."""
    if partials is None:
        return tl.load(t_sums + (kind * groups + group) * channels + channel, exists, other=0.0)
    else:
        return tl.sum(partial(partials, group, kind, channels, parts, channel, exists, 3, PARTS), 0)


@triton.jit
def _means(partials, t_sums, sums, group, count, channels, groups, parts, channel, exists, PARTS: tl.constexpr,
           BATCH: tl.constexpr):
    """(s1, s2, mt, ta, q) of a group; with running statistics q = td and the others do not matter."""
    mt = _total(partials, t_sums, group, 0, channels, groups, parts, channel, exists, PARTS) / count
    ta = _total(partials, t_sums, group, 1, channels, groups, parts, channel, exists, PARTS) / count
    q = _total(partials, t_sums, group, 2, channels, groups, parts, channel, exists, PARTS) / count
    s1, s2 = mt, ta
    if BATCH:
        s1 = tl.load(sums + group * channels + channel, exists, other=0.0) / count
        s2 = tl.load(sums + (groups + group) * channels + channel, exists, other=0.0) / count
        q = q - mt * s1 - ta * s2
    return s1, s2, mt, ta, q


@triton.jit
def _add_up(t_sums, partials, rows, channels, groups, parts, PARTS: tl.constexpr, STAGES: tl.constexpr,
            WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    _, group, channel, exists, rows = place(rows, channels, groups, WIDE, BLOCK_C)
    for kind in tl.static_range(3):
        total = _total(partials, t_sums, group, kind, channels, groups, parts, channel, exists, PARTS)
        tl.store(t_sums + (kind * groups + group) * channels + channel, total, exists)


@triton.jit
def _apply(t, g, z, mean, rstd, weight, bias, out, extra, partials, t_sums, sums, grad_weight, rows, channels, groups,
           parts, RELU: tl.constexpr, PIXELS: tl.constexpr, PARTS: tl.constexpr, BATCH: tl.constexpr,
           STAGES: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    part, group, channel, exists, rows = place(rows, channels, groups, WIDE, BLOCK_C)
    count = rows.to(mean.dtype.element_ty)
    s1, s2, mt, ta, q = _means(partials, t_sums, sums, group, count, channels, groups, parts, channel, exists, PARTS,
                               BATCH)
    if grad_weight is not None:
        if part + group == 0:
            total = tl.load(grad_weight + channel, exists, other=0.0)
            total += count * tl.load(rstd + channel, exists, other=0.0) * q
            for each in range(1, groups):
                other = _means(partials, t_sums, sums, each, count, channels, groups, parts, channel, exists, PARTS,
                               BATCH)
                total += count * tl.load(rstd + each * channels + channel, exists, other=0.0) * other[4]
            tl.store(grad_weight + channel, total, exists)
    if BATCH:
        weight = parameter(weight, channel, exists, 1.0, mean)
        bias = parameter(bias, channel, exists, 0.0, mean)
        mean = tl.load(mean + group * channels + channel, exists, other=0.0)
        rstd = tl.load(rstd + group * channels + channel, exists, other=0.0)
        scale = (weight * rstd)[None, :]
        factor, q_yh = -scale * rstd[None, :], (q - 2 * ta * s2)[None, :]
        s1, s2, mt, ta = s1[None, :], s2[None, :], mt[None, :], ta[None, :]
        tiles = tl.cdiv(rows, BLOCK_R)
        for index in tl.range(part, tiles, parts, num_stages=STAGES):
            at, offset, mask = tile(tiles - 1 - index, group, rows, channels, channel, exists, BLOCK_R)
            yh = normalised(load(z, offset, mask), mean, rstd)
            centred = load(t, offset, mask) - mt
            d = masked(load_shared(g, at, channels, channel, mask, PIXELS), yh, weight, bias, RELU)
            value = masked(scale * (centred - yh * ta), yh, weight, bias, RELU)
            tl.store(out + offset, value.to(out.dtype.element_ty), mask)
            value = factor * (s2 * centred + ta * (d - s1) + yh * q_yh)
            tl.store(extra + offset, value.to(extra.dtype.element_ty), mask)


def norm_relu_tangent(t, t_residual, g, z, mean, rstd, weight, bias, sums, grad_weight, groups, batch_statistics, relu,
                      given, results_too):
    if not _norm.served(z):
        return norm_relu_tangent_reference(t, t_residual, g, z, mean, rstd, weight, bias, sums, grad_weight, groups,
                                           batch_statistics, relu, given, results_too)
    work, nothing = _norm.split(z, groups), z.new_empty(0)
    wanted = given is None and (batch_statistics or grad_weight is not None)
    partials = _norm.partial_sums(work, 3, mean) if wanted else None
    t_sums = mean.new_empty(0 if results_too else (3, *mean.shape))
    out = torch.empty_like(z) if results_too else nothing
    extra = torch.empty_like(z) if results_too and batch_statistics else nothing
    tz = nothing if t_residual is None else torch.empty_like(z)
    t, residual = like(t, z), None if t_residual is None else like(t_residual, z)
    g, pixels = _norm.as_rows(g, z)
    inputs, options = (g, z, mean, rstd, weight, bias), {"RELU": relu, "PIXELS": pixels}
    total = {"PARTS": triton.next_power_of_2(work.parts) if wanted else 1}
    if given is None:
        _norm.run(_reduce, work, t, residual, None if residual is None else tz, *inputs,
                  None if batch_statistics else out, partials, **options)
    if not results_too:
        _norm.run(_add_up, work, t_sums, partials, parts=1, **total)
    elif wanted or given is not None:
        _norm.run(_apply, work, t if residual is None else tz, *inputs, out, extra, partials, given, sums, grad_weight,
                  parts=None if batch_statistics else 1, BATCH=batch_statistics, **total, **options)
    return tz, out, extra, t_sums
