"""Penalties of the cross-entropy's input gradients: GradAlign and LLR.

With l_i the loss of sample i and g = d sum_i l_i / dx = J^T c, c = p - onehot(y), a penalty phi(g) reaches the
parameters in two ways. Through J, c held constant: the engine carries u = dphi/dg on as a tangent, as it does for the
Jacobian penalty. Through c, a function of the logits: dphi/dlogits = H (J u), H = diag(p) - p p^T, and J u are the
logits of that tangent. So the sweeps need no second derivative of the network.
"""

from __future__ import annotations

import dataclasses

import torch

from ..attacks.directions import ascend_ce, probabilities


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a step knows when the penalty is asked: images and logits by point, labels, the gradient (of the sum over
    the batch) at the point from which the adversary started, and `engine.Ranks` that hold equal parts of the batch
    (None: this is all of it)."""

    images: dict[str, torch.Tensor]
    logits: dict[str, torch.Tensor]
    y: torch.Tensor
    start_gradient: torch.Tensor | None
    ranks: object = None


@dataclasses.dataclass(frozen=True)
class Value:
    """loss: 0-d, weights included; terms: its parts without weights; u: dloss/dg; dlogits: what does not pass g."""

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    u: torch.Tensor
    dlogits: dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class AlignmentPenalty:
    """weight (1 - mean_i cos(g_i(x), g_i(point))), the gradient at x held constant (Andriushchenko and Flammarion
    2020). Samples where either gradient is 0 do not count; without any left the penalty is 0."""

    point: str
    weight: float | torch.Tensor

    def phi(self, g: torch.Tensor, seen: Seen) -> Value:
        assert seen.start_gradient is not None  # the adversary starts at x, so its first gradient is the one there
        a, b = seen.start_gradient.to(_wide(g)), g.to(_wide(g))
        a_norm, b_norm = (torch.linalg.vector_norm(v, dim=_within(g), keepdim=True) for v in (a, b))
        counts = (a_norm > 0) & (b_norm > 0)
        a, b = a / torch.where(counts, a_norm, 1), b / torch.where(counts, b_norm, 1)
        cos = (a * b).sum(_within(g), keepdim=True)
        share = _shares(counts.to(cos.dtype), seen.ranks)
        misaligned = (share * (1 - cos)).sum()
        u = (a - cos * b) * (-self.weight * share / torch.where(counts, b_norm, 1))
        return Value(self.weight * misaligned, {"alignment": misaligned}, u.to(g.dtype), {})


@dataclasses.dataclass(frozen=True)
class LinearityPenalty:
    """weight mean_i |l_i(x') - l_i(x) - d_i . g_i(x)| + slope_weight mean_i |d_i . g_i(x)|, d = x' - x held constant
    (Qin et al. 2019)."""

    point: str
    weight: float | torch.Tensor
    slope_weight: float | torch.Tensor

    def phi(self, g: torch.Tensor, seen: Seen) -> Value:
        d = seen.images["adv"] - seen.images["x"]
        slope = inner(d, g)
        curved = losses(seen.logits["adv"], seen.y) - losses(seen.logits["x"], seen.y) - slope
        up, along = curved.sign() * (self.weight / len(g)), slope.sign() * (self.slope_weight / len(g))
        terms = {"linearity": curved.abs().mean(), "slope": slope.abs().mean()}
        loss = self.weight * terms["linearity"] + self.slope_weight * terms["slope"]
        u = d * per_sample(along - up, d)
        dlogits = {point: ascend_ce(z, seen.y) * sign * up[:, None].to(z.dtype)
                   for point, z, sign in (("adv", seen.logits["adv"], 1), ("x", seen.logits["x"], -1))}
        return Value(loss, terms, u, dlogits)


def _shares(counts: torch.Tensor, ranks) -> torch.Tensor:
    """1 / n for the n samples that count, 0 for the others; of several processes such that the mean of their sums is
    the batch's. counts: 1 or 0."""
    if ranks is None:
        return counts / counts.sum().clamp_min(1)
    return counts * (ranks.size / ranks.add(counts.sum()).clamp_min(1))


def curvature(logits: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """(diag(p) - p p^T) t of each sample: the Hessian of its cross-entropy times t. logits, tangent: [N, C]."""
    p = probabilities(logits)
    t = tangent.to(p.dtype)
    return (p * (t - (p * t).sum(1, keepdim=True))).to(logits.dtype)


def losses(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample, [N], in at least float32."""
    return -logits.to(_wide(logits)).log_softmax(1).gather(1, y[:, None])[:, 0]


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a_i . b_i of each sample: [N]."""
    return (a * b).sum(_within(a))


def per_sample(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[N] -> [N, 1, ...], in the dtype of `like`."""
    return value.view(-1, *(1,) * (like.dim() - 1)).to(like.dtype)


def _within(images: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of a sample; reducing them needs no copy of channels-last images, as flattening does."""
    return tuple(range(1, images.dim()))


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
