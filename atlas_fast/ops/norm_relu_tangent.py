"""The adjoint of norm_relu_backward as a map (g, weight, z) -> dz: the double backward of BatchNorm and ReLU.

With t the adjoint of dz, s1 = m(D), s2 = m(D yh), mt = m(t), ta = m(t yh), td = m(t D), q = td - mt s1 - ta s2 and M
the mask [weight yh + bias > 0], per channel and group of n values:

    adjoint of g        out = M weight rstd (t - mt - yh ta)
    adjoint of weight   sum over groups of n rstd q
    adjoint of z        extra = -weight rstd^2 (s2 (t - mt) + ta (D - s1) + yh (q - 2 ta s2))

With running statistics out = M weight rstd t, the adjoint of weight is rstd n td, and z has none.
"""

import torch

from . import _norm
from ._registry import define


def norm_relu_tangent_reference(t, t_residual, g, z, mean, rstd, weight, bias, sums, grad_weight, groups,
                                batch_statistics, relu, average=None):
    """The definition. Without t_residual the first output is empty, with running statistics the third. average: as of
    norm_relu_backward_reference, which made the sums."""
    tz = t if t_residual is None else _norm.stored(t + t_residual, z)
    samples, n = len(z), z.numel() // max(mean.numel(), 1)

    t, yh = tz.to(mean.dtype), _norm.normalised(z, mean, rstd)
    D = _norm.masked(g, yh, weight, bias, relu)
    scale, extra, centred = _norm.scale(weight, rstd), z.new_empty(0), t
    products = (t * D, t, t * yh) if batch_statistics else (t * D,)
    means = torch.stack([_norm.group_sums(value, groups) for value in products]) / max(n, 1)
    q, *rest = means if average is None or not batch_statistics else average(means)
    if batch_statistics:
        s1, s2 = sums / max(n, 1)
        mt, ta = rest
        q = q - mt * s1 - ta * s2
        factor, mt, ta, s1, s2, q_yh = (_norm.per_sample(v, samples)
                                        for v in (-scale * rstd, mt, ta, s1, s2, q - 2 * ta * s2))
        extra = _norm.stored(factor * (s2 * (t - mt) + ta * (D - s1) + yh * q_yh), z)
        centred = t - mt - yh * ta
    if grad_weight is not None:
        grad_weight.add_((n * rstd * q).sum(0))
    out = _norm.masked(_norm.per_sample(scale, samples) * centred, yh, weight, bias, relu)
    return z.new_empty(0) if t_residual is None else tz, _norm.stored(out, z), extra


def _fake(t, t_residual, g, z, mean, rstd, weight, bias, sums, grad_weight, groups, batch_statistics, relu):
    empty = z.new_empty
    return (empty(0) if t_residual is None else torch.empty_like(z), torch.empty_like(z),
            torch.empty_like(z) if batch_statistics else empty(0))


_op = define("norm_relu_tangent", "(Tensor t, Tensor? t_residual, Tensor g, Tensor z, Tensor mean, Tensor rstd, "
             "Tensor? weight, Tensor? bias, Tensor sums, Tensor(a!)? grad_weight, int groups, bool batch_statistics, "
             "bool relu) -> (Tensor, Tensor, Tensor)", norm_relu_tangent_reference, _fake, launches=2)


def launches(grad_weight: bool, batch_statistics: bool) -> int:
    """Kernels that one call runs on a GPU (channels-last); grad_weight says whether that gradient is wanted."""
    return 2 if batch_statistics or grad_weight else 1


@torch.no_grad()
def norm_relu_tangent(t: torch.Tensor, t_residual: torch.Tensor | None, g: torch.Tensor, z: torch.Tensor,
                      mean: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
                      sums: torch.Tensor, grad_weight: torch.Tensor | None = None, groups: int = 1,
                      batch_statistics: bool = True,
                      relu: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(tz, out, extra); not differentiable by autograd.

    t: [N,C,H,W], the adjoint of norm_relu_backward's dz; t_residual: a second summand like t, or None (then the
    returned tz is t itself); tz = t + t_residual in the dtype of z. g, z, mean, rstd, weight, bias, groups,
    batch_statistics, relu: as norm_relu_backward was given them, sums: as it returned them (not read with running
    statistics). out: the adjoint of g, extra: the adjoint of z (empty with running statistics), both like z, rounded
    once. grad_weight: [C] or None, increased in place by the adjoint of weight. The residual_adjoint of the backward
    has the adjoint tz, which is the caller's to pass on. On a GPU activations that are not channels-last take the
    PyTorch reference. Raises UserError for other shapes, dtypes or devices and for groups that do not divide N.
    """
    what, channels = "norm_relu_tangent", z.shape[1:2]
    _norm.check_activations(what, z, groups, t, t_residual, g)
    _norm.check_parameters(what, z, (*channels,), weight=weight, bias=bias, grad_weight=grad_weight)
    _norm.check_parameters(what, z, (groups, *channels), mean=mean, rstd=rstd)
    if batch_statistics:
        _norm.check_parameters(what, z, (2, groups, *channels), sums=sums)
    tz, *results = _op(t, t_residual, g, z, mean, rstd, weight, bias, sums, grad_weight, groups, batch_statistics, relu)
    return t if t_residual is None else tz, *results
