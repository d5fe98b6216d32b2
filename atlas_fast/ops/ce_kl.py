"""Cross-entropy at one point plus a KL divergence to another, with both logit gradients in one pass.

With p = softmax(first), q = softmax(second), targets t = (1 - s) onehot + s / C, per sample:

    CE = - sum t log p                        dCE/dfirst = p - t
    KL(p||q) = sum p (log p - log q)          d/dfirst = p (log p - log q - KL),   d/dsecond = q - p
    KL(q||p) = sum q (log q - log p)          d/dfirst = p - q,   d/dsecond = q (log q - log p - KL)

loss = mean CE + beta mean KL (equations 13, 14 and D.1 of the paper). The gradients are analytic, so that a probability
which underflows contributes 0 instead of NaN.
"""

from numbers import Real

import torch

from ..errors import UserError
from ._arguments import FLOATS, check_tensors, compute_dtype, number_and_tensor, scaled
from ._once import once
from ._registry import define


def ce_kl_reference(first, second, target, beta, beta_tensor=None, reverse=False, label_smoothing=0.0):
    """The definition: (terms [3] = loss, CE, KL; d_first; d_second, empty where there is no second)."""
    dtype = compute_dtype(first.dtype)
    samples, classes = first.shape
    beta = scaled(beta, beta_tensor, dtype)
    log_p = first.to(dtype).log_softmax(1)
    p = log_p.exp()
    t = torch.full_like(p, label_smoothing / classes)
    t.scatter_(1, target[:, None], 1 - label_smoothing + label_smoothing / classes)
    ce = -torch.where(t > 0, t * log_p, 0.0).sum(1).mean()  # a logit of -inf off the target costs nothing
    d_first, d_second = p - t, None
    kl = torch.zeros_like(ce)
    if second is not None:
        log_q = second.to(dtype).log_softmax(1)
        q = log_q.exp()
        base, log_ratio = (q, log_q - log_p) if reverse else (p, log_p - log_q)
        per_class = torch.where(base > 0, base * log_ratio, 0.0)
        row = per_class.sum(1, keepdim=True)
        to_base, to_other = per_class - base * row, (p - q if reverse else q - p)
        d_first = d_first + beta * (to_other if reverse else to_base)
        d_second = (beta * (to_base if reverse else to_other) / samples).to(second.dtype)
        kl = row.mean()
    terms = torch.stack([ce + beta * kl, ce, kl])
    return terms, (d_first / samples).to(first.dtype), d_second if second is not None else first.new_empty(0)


def _fake(first, second, target, beta, beta_tensor, reverse, label_smoothing):
    terms = first.new_empty(3, dtype=compute_dtype(first.dtype))
    d_first = first.new_empty(first.shape)
    return terms, d_first, first.new_empty(first.shape if second is not None else 0)


_op = define("ce_kl", "(Tensor first, Tensor? second, Tensor target, float beta, Tensor? beta_tensor, bool reverse, "
             "float label_smoothing) -> (Tensor, Tensor, Tensor)", ce_kl_reference, _fake, launches=2)


def _check(first, second, target, label_smoothing: float):
    check_tensors("ce_kl", first, target, *(() if second is None else (second,)))
    if first.dim() != 2 or first.dtype not in FLOATS:
        raise UserError("ce_kl needs float32, float64 or bfloat16 logits [N, C], got "
                        f"{first.dtype} {list(first.shape)}")
    if second is not None:
        kinds = [(list(z.shape), z.dtype, str(z.device)) for z in (first, second)]
        if kinds[0] != kinds[1]:
            raise UserError(f"ce_kl needs both logits of one shape, dtype and device, got {kinds[0]} and {kinds[1]}")
    if target.shape != first.shape[:1] or target.dtype != torch.int64 or target.device != first.device:
        raise UserError(f"ce_kl needs int64 targets [{first.shape[0]}] on {first.device}, got {target.dtype} "
                        f"{list(target.shape)} on {target.device}")
    if not isinstance(label_smoothing, Real) or not 0 <= label_smoothing <= 1:
        raise UserError(f"label_smoothing must be in [0, 1], got {label_smoothing!r}")


def ce_kl_terms(
    first: torch.Tensor, second: torch.Tensor | None, target: torch.Tensor, beta: float | torch.Tensor,
    reverse: bool = False, label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The loss and its logit gradients without autograd: (terms, d_first, d_second).

    first: logits [N, C] where the cross-entropy is taken, second: the other logits or None (plain cross-entropy);
    float32, float64 or bfloat16. target: int64 [N] in 0..C-1 (out of range: an error on a CPU, NaN on a GPU, which
    could not raise without waiting). beta: number or 0-d tensor. reverse: KL(p_second||p_first) instead of
    KL(p_first||p_second). terms: [3] loss, mean CE, mean KL (float32; float64 for float64 logits). The gradients are
    those of the mean loss, in the logits' dtype. Raises UserError for mismatched shapes, dtypes or devices.
    """
    _check(first, second, target, label_smoothing)
    terms, d_first, d_second = _op(first.detach(), None if second is None else second.detach(), target,
                                   *number_and_tensor(beta, "beta", first), reverse, label_smoothing)
    return terms, d_first, None if second is None else d_second


class _CeKl(torch.autograd.Function):
    @staticmethod
    def forward(ctx, first, second, target, beta, reverse, label_smoothing):
        terms, d_first, d_second = ce_kl_terms(first, second, target, beta, reverse, label_smoothing)
        ctx.save_for_backward(first, second, d_first, d_second)
        return terms[0].clone()

    @staticmethod
    def backward(ctx, grad_loss):
        first, second, *gradients = ctx.saved_tensors
        grads = [once("ce_kl", (d * grad_loss).to(d.dtype), first, second) if needed else None
                 for d, needed in zip(gradients, ctx.needs_input_grad[:2], strict=True)]
        return *grads, None, None, None, None


DIRECTIONS = ("adv||clean", "clean||adv")


def ce_kl(logits_adv: torch.Tensor, logits: torch.Tensor, target: torch.Tensor, beta: float | torch.Tensor, *,
          direction: str = "adv||clean", label_smoothing: float = 0.0) -> torch.Tensor:
    """mean CE(logits_adv) + beta * KL, 0-d, differentiable once in both logits.

    logits_adv, logits: [N, C] at x' and x, float32, float64 or bfloat16; target: int64 [N] in 0..C-1; beta: number or
    0-d tensor; direction: "adv||clean" for KL(p_adv||p) as in ATLAS (equation 13), "clean||adv" for KL(p||p_adv).
    Raises UserError for mismatched shapes, dtypes, devices or an unknown direction.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    return _CeKl.apply(logits_adv, logits, target, beta, direction == "clean||adv", label_smoothing)
