"""Cross-entropy plus global term as a function of logits: value, parts and logit gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import ops
from ..errors import UserError

KL_POINTS = {"adv||clean": ("adv", "x"), "clean||adv": ("x", "adv")}
"""KL(p(base) || p(other)): name -> (base, other). ATLAS uses the first (equation 13), TRADES the second (D.1)."""

Head = tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]


def fused(objective, logits: dict[str, torch.Tensor], y: torch.Tensor, beta) -> Head:
    """mean CE(ce_at) + beta mean KL by the fused operation: equations 12 (first term), 13, 21 and D.1."""
    first = objective.ce_at
    if not objective.kl_points:
        terms, d_first, _ = ops.ce_kl_terms(logits[first], None, y, 0.0, label_smoothing=objective.label_smoothing)
        return terms[0], {"ce": terms[1]}, {first: d_first}
    base, other = objective.kl_points
    second = other if first == base else base
    terms, d_first, d_second = ops.ce_kl_terms(logits[first], logits[second], y, beta, reverse=first != base,
                                               label_smoothing=objective.label_smoothing)
    return terms[0], {"ce": terms[1], "kl": terms[2]}, {first: d_first, second: d_second}


@torch.enable_grad()
def by_autograd(objective, logits: dict[str, torch.Tensor], y: torch.Tensor, beta) -> Head:
    """mean CE(ce_at) + beta metric(base, other) for a user's metric, differentiated on detached logits."""
    leaves = {point: z.detach().to(torch.promote_types(z.dtype, torch.float32)).requires_grad_()
              for point, z in logits.items()}
    ce = F.cross_entropy(leaves[objective.ce_at], y, label_smoothing=objective.label_smoothing)
    metric = objective.metric(*(leaves[point] for point in objective.kl_points))
    if not isinstance(metric, torch.Tensor) or metric.dim() != 0 or not metric.requires_grad:
        raise UserError("metric(logits_base, logits_other) must return a 0-d tensor that depends on the logits")
    loss = ce + beta * metric
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    dlogits = {point: grad.to(logits[point].dtype) for point, grad in zip(leaves, grads, strict=True)}
    return loss.detach(), {"ce": ce.detach(), "metric": metric.detach()}, dlogits
