"""A local term at one point plus a global term that ties two, of logits: value, parts and logit gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import ops
from ..errors import UserError

KL_POINTS = {"adv||clean": ("adv", "x"), "clean||adv": ("x", "adv"), "misclassified": ("x", "adv"),
             "nuclear": ("adv", "x")}
"""Global terms: name -> (base, other). ATLAS uses KL(p(base) || p(other)) of the first (equation 13), TRADES of the
second (D.1)."""

Head = tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]


def head(objective, logits: dict[str, torch.Tensor], y: torch.Tensor, beta, ranks=None) -> Head:
    """(loss, terms, {point: dlogits}): by the fused operation where it has the row's terms, else by autograd. ranks:
    `engine.Ranks` that hold equal parts of the batch, None: this is all of it."""
    global_term = objective.kl if objective.kl_points else None
    own = global_term is not None and (objective.metric is not None or global_term in _GLOBAL)
    if own or objective.ce != "plain":
        return by_autograd(objective, logits, y, beta, ranks)
    return fused(objective, logits, y, beta)


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
    assert d_second is not None  # there are second logits
    return terms[0], {"ce": terms[1], "kl": terms[2]}, {first: d_first, second: d_second}


@torch.enable_grad()
def by_autograd(objective, logits: dict[str, torch.Tensor], y: torch.Tensor, beta, ranks=None) -> Head:
    """local term(ce_at) + beta global term(base, other), differentiated on detached logits."""
    needed = {objective.ce_at, *objective.kl_points}
    leaves = {point: z.detach().to(torch.promote_types(z.dtype, torch.float32)).requires_grad_()
              for point, z in logits.items() if point in needed}
    name, local = _LOCAL[objective.ce]
    loss = local(leaves[objective.ce_at], y, objective.label_smoothing)
    terms = {name: loss.detach()}
    if objective.kl_points:
        base, other = objective.kl_points
        name, value = _global_term(objective, leaves[base], leaves[other], y, ranks)
        loss, terms[name] = loss + beta * value, value.detach()
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    dlogits = {point: grad.to(logits[point].dtype) for point, grad in zip(leaves, grads, strict=True)}
    return loss.detach(), terms, dlogits


def _global_term(objective, base, other, y, ranks):
    if objective.metric is None:
        name, function = {**_GLOBAL, **_PLAIN_KL}[objective.kl]
        return name, function(base, other, y, ranks)
    value = objective.metric(base, other)
    if not isinstance(value, torch.Tensor) or value.dim() != 0 or not value.requires_grad:
        raise UserError("metric(logits_base, logits_other) must return a 0-d tensor that depends on the logits")
    return "metric", value


def cross_entropy(logits: torch.Tensor, y: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    return F.cross_entropy(logits, y, label_smoothing=label_smoothing)


def boosted_cross_entropy(logits: torch.Tensor, y: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """mean of -log p_y - log(1 - max_{k != y} p_k) (Wang et al. 2020); label smoothing in the first part.

    1 - p_k is computed as the sum of the other probabilities, so that no cut-off is needed where p_k rounds to 1 (the
    authors' code adds 1e-4 to it).
    """
    wrong = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    log_rest = logits.scatter(1, wrong, -torch.inf).logsumexp(1) - logits.logsumexp(1)
    return cross_entropy(logits, y, label_smoothing) - log_rest.mean()


def kl(base: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(p(base) || p(other)) of each sample: [N]."""
    log_p, log_q = base.log_softmax(1), other.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def kl_of_misclassified(base: torch.Tensor, other: torch.Tensor, y: torch.Tensor, ranks=None) -> torch.Tensor:
    """mean of KL(p(x) || p(x')) (1 - p_y(x)), base at x (Wang et al. 2020)."""
    doubt = 1 - base.softmax(1).gather(1, y[:, None])[:, 0]
    return (kl(base, other) * doubt).mean()


def nuclear(base: torch.Tensor, other: torch.Tensor, y: torch.Tensor, ranks=None) -> torch.Tensor:
    """||f(x') - f(x)||_* / N: the sum of the singular values of the batch's differences (Sriramanan et al. 2021), of
    the whole batch where its rows lie in several processes."""
    difference = base - other if ranks is None else ranks.gather(base - other)
    return ops.nuclear_norm(difference) / len(difference)


_LOCAL = {"plain": ("ce", cross_entropy), "boosted": ("bce", boosted_cross_entropy)}
_GLOBAL = {"misclassified": ("kl", kl_of_misclassified), "nuclear": ("nuclear", nuclear)}
_PLAIN_KL = dict.fromkeys(("adv||clean", "clean||adv"), ("kl", lambda base, other, y, ranks: kl(base, other).mean()))
