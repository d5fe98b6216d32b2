"""Cross-entropy plus beta KL and both logit gradients (formulas in ops/ce_kl.py).

Up to _TILE classes the logits are read once and stay in registers, several rows per program where rows are short;
more classes take a loop over tiles: online maximum and sum, then the row's KL, then the gradients. Each row leaves its
CE and KL behind, and one program adds them in a fixed order.
"""

import torch
import triton
import triton.language as tl

from .._arguments import compute_dtype
from ._common import compute, launch, number_and_pointer, scalar

_TILE = 4096


@triton.jit
def _weigh(value, hit, ON: tl.constexpr, OFF: tl.constexpr):
    """value times the smoothed target; 0 where the target is 0, also for an infinite value."""
    if OFF == 0:
        return tl.where(hit, value * ON, 0.0)
    else:
        return tl.where(hit, value * ON, value * OFF)


@triton.jit
def _kl_term(log_p, log_q, REVERSE: tl.constexpr):
    """base (log base - log other) per class, 0 where the base probability underflows; base is q in reverse, else p."""
    if REVERSE:
        base = tl.exp(log_q)
        return tl.where(base > 0, base * (log_q - log_p), 0.0)
    else:
        base = tl.exp(log_p)
        return tl.where(base > 0, base * (log_p - log_q), 0.0)


@triton.jit
def _kl_gradients(log_p, log_q, kl, weight, REVERSE: tl.constexpr):
    """Gradients of weight * KL in first and second."""
    p, q = tl.exp(log_p), tl.exp(log_q)
    term = _kl_term(log_p, log_q, REVERSE)
    if REVERSE:
        return weight * (p - q), weight * (term - q * kl)
    else:
        return weight * (term - p * kl), weight * (q - p)


@triton.jit
def _store_terms(rows, row, mask, target, ce, kl, samples, classes):
    """Leave a row's CE and KL behind; an impossible target makes them NaN (a GPU cannot raise without waiting)."""
    ce = tl.where((target >= 0) & (target < classes), ce, float("nan"))
    tl.store(rows + row, ce, mask)
    tl.store(rows + samples + row, kl, mask)


@triton.jit
def _log_softmax(logits):
    shifted = logits - tl.max(logits, axis=1)[:, None]
    return shifted - tl.log(tl.sum(tl.exp(shifted), axis=1))[:, None]


@triton.jit(do_not_specialize=["samples"])
def _short_rows(first, second, target, d_first, d_second, rows, beta, beta_pointer, samples, classes, ON: tl.constexpr,
                OFF: tl.constexpr, REVERSE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = row < samples
    row = tl.minimum(row, samples - 1)  # the last program repeats a row rather than compute with nothing
    column = tl.arange(0, BLOCK)[None, :]
    inside = column < classes
    offset = row.to(tl.int64)[:, None] * classes + column
    mask = inside & valid[:, None]
    label = tl.load(target + row)
    hit = column == label[:, None]
    log_p = _log_softmax(compute(tl.load(first + offset, inside, other=float("-inf"))))
    p = tl.exp(log_p)
    ce = -tl.sum(tl.where(inside, _weigh(log_p, hit, ON, OFF), 0.0), axis=1)
    kl = ce * 0.0
    to_first = tl.where(hit, p - ON, p - OFF)
    inverse = 1.0 / samples.to(p.dtype)
    if second is not None:
        log_q = _log_softmax(compute(tl.load(second + offset, inside, other=float("-inf"))))
        kl = tl.sum(_kl_term(log_p, log_q, REVERSE), axis=1)
        more, to_second = _kl_gradients(log_p, log_q, kl[:, None], scalar(beta, beta_pointer), REVERSE)
        to_first += more
        tl.store(d_second + offset, (to_second * inverse).to(d_second.dtype.element_ty), mask)
    tl.store(d_first + offset, (to_first * inverse).to(d_first.dtype.element_ty), mask)
    _store_terms(rows, row, valid, label, ce, kl, samples, classes)


@triton.jit
def _load(logits, tile, classes, BLOCK: tl.constexpr):
    column = tile * BLOCK + tl.arange(0, BLOCK)
    return compute(tl.load(logits + column, column < classes, other=float("-inf")))


@triton.jit
def _maximum_and_log_sum(logits, classes, DTYPE: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """(m, log sum exp(logits - m)) of a row, in one pass: every lane keeps its own maximum and sum."""
    top = tl.full([BLOCK], float("-inf"), DTYPE)
    total = tl.zeros([BLOCK], DTYPE)
    for tile in range(TILES):
        value = _load(logits, tile, classes, BLOCK)
        highest = tl.maximum(top, value)
        base = tl.where(highest > float("-inf"), highest, 0.0)
        total = total * tl.exp(top - base) + tl.exp(value - base)
        top = highest
    highest = tl.max(top, axis=0)
    return highest, tl.log(tl.sum(total * tl.exp(top - highest), axis=0))


@triton.jit(do_not_specialize=["samples"])
def _long_rows(first, second, target, d_first, d_second, rows, beta, beta_pointer, samples, classes, ON: tl.constexpr,
               OFF: tl.constexpr, REVERSE: tl.constexpr, DTYPE: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    begin = row.to(tl.int64) * classes
    label = tl.load(target + row)
    max_p, log_sum_p = _maximum_and_log_sum(first + begin, classes, DTYPE, TILES, BLOCK)
    ce_lanes = tl.zeros([BLOCK], DTYPE)
    kl_lanes = tl.zeros([BLOCK], DTYPE)
    if second is not None:
        max_q, log_sum_q = _maximum_and_log_sum(second + begin, classes, DTYPE, TILES, BLOCK)
    for tile in range(TILES):
        column = tile * BLOCK + tl.arange(0, BLOCK)
        log_p = _load(first + begin, tile, classes, BLOCK) - max_p - log_sum_p
        ce_lanes += tl.where(column < classes, _weigh(log_p, column == label, ON, OFF), 0.0)
        if second is not None:
            log_q = _load(second + begin, tile, classes, BLOCK) - max_q - log_sum_q
            kl_lanes += _kl_term(log_p, log_q, REVERSE)
    kl = tl.sum(kl_lanes, axis=0)
    inverse = 1.0 / samples.to(DTYPE)
    for tile in range(TILES):
        column = tile * BLOCK + tl.arange(0, BLOCK)
        mask = column < classes
        log_p = _load(first + begin, tile, classes, BLOCK) - max_p - log_sum_p
        p = tl.exp(log_p)
        to_first = tl.where(column == label, p - ON, p - OFF)
        if second is not None:
            log_q = _load(second + begin, tile, classes, BLOCK) - max_q - log_sum_q
            more, to_second = _kl_gradients(log_p, log_q, kl, scalar(beta, beta_pointer), REVERSE)
            to_first += more
            tl.store(d_second + begin + column, (to_second * inverse).to(d_second.dtype.element_ty), mask)
        tl.store(d_first + begin + column, (to_first * inverse).to(d_first.dtype.element_ty), mask)
    _store_terms(rows, row, True, label, -tl.sum(ce_lanes, axis=0), kl, samples, classes)


@triton.jit(do_not_specialize=["samples"])
def _means(rows, terms, beta, beta_pointer, samples, DTYPE: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr):
    ce_lanes = tl.zeros([BLOCK], DTYPE)
    kl_lanes = tl.zeros([BLOCK], DTYPE)
    for tile in range(TILES):
        row = tile * BLOCK + tl.arange(0, BLOCK)
        ce_lanes += tl.load(rows + row, row < samples, other=0.0)
        kl_lanes += tl.load(rows + samples + row, row < samples, other=0.0)
    count = samples.to(DTYPE)
    ce, kl = tl.sum(ce_lanes, axis=0) / count, tl.sum(kl_lanes, axis=0) / count
    tl.store(terms, ce + scalar(beta, beta_pointer) * kl)
    tl.store(terms + 1, ce)
    tl.store(terms + 2, kl)


def ce_kl(first, second, target, beta, beta_tensor, reverse, label_smoothing):
    samples, classes = first.shape
    dtype = compute_dtype(first.dtype)
    triton_dtype = tl.float64 if dtype == torch.float64 else tl.float32
    rows = torch.empty((2, samples), dtype=dtype, device=first.device)
    terms = torch.empty(3, dtype=dtype, device=first.device)
    d_first = first.new_empty(first.shape)
    d_second = None if second is None else first.new_empty(first.shape)
    beta = number_and_pointer(beta, beta_tensor, first)
    arguments = (first.contiguous(), None if second is None else second.contiguous(), target.contiguous(), d_first,
                 d_second, rows, *beta, samples, classes)
    block = triton.next_power_of_2(max(classes, 2))
    off = label_smoothing / max(classes, 1)
    constants = {"ON": 1 - label_smoothing + off, "OFF": off, "REVERSE": reverse}
    if block <= _TILE:
        per_program = max(256 // block, 1)
        launch(_short_rows, triton.cdiv(samples, per_program), first, *arguments, **constants, ROWS=per_program,
               BLOCK=block, num_warps=4 if block <= 1024 else 8)
    else:
        launch(_long_rows, samples, first, *arguments, **constants, DTYPE=triton_dtype,
               TILES=triton.cdiv(classes, _TILE), BLOCK=_TILE, num_warps=8)
    launch(_means, 1, first, rows, terms, *beta, samples, DTYPE=triton_dtype, TILES=triton.cdiv(samples, 1024),
           BLOCK=1024)
    return terms, d_first, d_second if second is not None else first.new_empty(0)
