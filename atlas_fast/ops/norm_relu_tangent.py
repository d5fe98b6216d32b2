"""The adjoint of norm_relu_backward as a map (g, weight, z) -> dz: the double backward of BatchNorm and ReLU.

With t the adjoint of dz, s1 = m(D), s2 = m(D yh), mt = m(t), ta = m(t yh), td = m(t D), q = td - mt s1 - ta s2 and M
the mask [weight yh + bias > 0], per channel and group of n values:

    adjoint of g        out = M weight rstd (t - mt - yh ta)
    adjoint of weight   sum over groups of n rstd q
    adjoint of z        extra = -weight rstd^2 (s2 (t - mt) + ta (D - s1) + yh (q - 2 ta s2))

With running statistics out = M weight rstd t, the adjoint of weight is rstd n td, and z has none.

Where several processes hold parts of a batch and share their statistics, m(.) is a mean over all of them: one call
for this part's sums, n times (mt, ta, td), and one for the rest from what all agreed upon.
"""

import torch

from ..errors import UserError
from . import _norm
from ._registry import define


def norm_relu_tangent_reference(t, t_residual, g, z, mean, rstd, weight, bias, sums, grad_weight, groups,
                                batch_statistics, relu, given=None, results_too=True):
    """The definition. Empty are the first output without t_residual, the third with running statistics, the fourth
    where the results were asked for and the second and third where only the sums were."""
    tz = t if t_residual is None else _norm.stored(t + t_residual, z)
    samples, n = len(z), z.numel() // max(mean.numel(), 1)
    nothing = z.new_empty(0)
    first = nothing if t_residual is None else tz

    t, yh = tz.to(mean.dtype), _norm.normalised(z, mean, rstd)
    D = _norm.masked(g, yh, weight, bias, relu)
    if given is None:
        t_sums = torch.stack([_norm.group_sums(value, groups) for value in (t, t * yh, t * D)])
    else:
        t_sums = given
    if not results_too:
        return first, nothing, nothing, t_sums
    scale, extra, centred = _norm.scale(weight, rstd), nothing, t
    mt, ta, q = t_sums / max(n, 1)
    if batch_statistics:
        s1, s2 = sums / max(n, 1)
        q = q - mt * s1 - ta * s2
        factor, mt, ta, s1, s2, q_yh = (_norm.per_sample(v, samples)
                                        for v in (-scale * rstd, mt, ta, s1, s2, q - 2 * ta * s2))
        extra = _norm.stored(factor * (s2 * (t - mt) + ta * (D - s1) + yh * q_yh), z)
        centred = t - mt - yh * ta
    if grad_weight is not None:
        grad_weight.add_((n * rstd * q).sum(0))
    out = _norm.masked(_norm.per_sample(scale, samples) * centred, yh, weight, bias, relu)
    return first, _norm.stored(out, z), extra, mean.new_empty(0)


def _fake(t, t_residual, g, z, mean, rstd, weight, bias, sums, grad_weight, groups, batch_statistics, relu, given,
          results_too):
    empty, like = z.new_empty, torch.empty_like
    return (empty(0) if t_residual is None else like(z), like(z) if results_too else empty(0),
            like(z) if results_too and batch_statistics else empty(0),
            mean.new_empty(0 if results_too else (3, *mean.shape)))


_op = define("norm_relu_tangent", "(Tensor t, Tensor? t_residual, Tensor g, Tensor z, Tensor mean, Tensor rstd, "
             "Tensor? weight, Tensor? bias, Tensor sums, Tensor(a!)? grad_weight, int groups, bool batch_statistics, "
             "bool relu, Tensor? given, bool results_too) -> (Tensor, Tensor, Tensor, Tensor)",
             norm_relu_tangent_reference, _fake, launches=2)


def launches(grad_weight: bool, batch_statistics: bool) -> int:
    """Kernels that one call runs on a GPU (channels-last); grad_weight says whether that gradient is wanted."""
    return 2 if batch_statistics or grad_weight else 1


@torch.no_grad()
def norm_relu_tangent(t: torch.Tensor, t_residual: torch.Tensor | None, g: torch.Tensor, z: torch.Tensor,
                      mean: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
                      sums: torch.Tensor, grad_weight: torch.Tensor | None = None, groups: int = 1,
                      batch_statistics: bool = True, relu: bool = True,
                      given: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(tz, out, extra); not differentiable by autograd.

    t: [N,C,H,W], the adjoint of norm_relu_backward's dz; t_residual: a second summand like t, or None (then the
    returned tz is t itself); tz = t + t_residual in the dtype of z. g, z, mean, rstd, weight, bias, groups,
    batch_statistics, relu: as norm_relu_backward was given them, sums: as it returned them (not read with running
    statistics). out: the adjoint of g, extra: the adjoint of z (empty with running statistics), both like z, rounded
    once. grad_weight: [C] or None, increased in place by the adjoint of weight. The residual_adjoint of the backward
    has the adjoint tz, which is the caller's to pass on. given: with batch statistics, what norm_relu_tangent_sums
    returned averaged over the processes, used instead of the sums of this batch; `sums` are such averages too, t is the
    tz returned there, and t_residual None. On a GPU activations that are not channels-last take the PyTorch reference.
    Raises UserError for other shapes, dtypes or devices and for groups that do not divide N.
    """
    channels = _check("norm_relu_tangent", t, t_residual, g, z, mean, rstd, weight, bias, grad_weight, groups)
    if batch_statistics:
        _norm.check_parameters("norm_relu_tangent", z, (2, groups, *channels), sums=sums)
    if given is not None:
        _norm.check_parameters("norm_relu_tangent", z, (3, groups, *channels), given=given)
        if not batch_statistics or t_residual is not None:
            raise UserError("norm_relu_tangent takes given sums with batch statistics alone, and t with t_residual "
                            "added as norm_relu_tangent_sums returned it")
    tz, out, extra, _ = _op(t, t_residual, g, z, mean, rstd, weight, bias, sums, grad_weight, groups, batch_statistics,
                            relu, given, True)
    return t if t_residual is None else tz, out, extra


@torch.no_grad()
def norm_relu_tangent_sums(t: torch.Tensor, t_residual: torch.Tensor | None, g: torch.Tensor, z: torch.Tensor,
                           mean: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor | None,
                           bias: torch.Tensor | None, groups: int = 1,
                           relu: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """(tz, sums over samples and pixels of tz, tz yh and tz D: [3, groups, C]), all that norm_relu_tangent needs of
    other samples than its own; arguments, tz and errors as there."""
    _check("norm_relu_tangent_sums", t, t_residual, g, z, mean, rstd, weight, bias, None, groups)
    tz, _, _, t_sums = _op(t, t_residual, g, z, mean, rstd, weight, bias, mean.new_empty(0), None, groups, True, relu,
                           None, False)
    return t if t_residual is None else tz, t_sums


def _check(what: str, t, t_residual, g, z, mean, rstd, weight, bias, grad_weight, groups) -> tuple[int, ...]:
    """(C,)."""
    channels = z.shape[1:2]
    _norm.check_activations(what, z, groups, t, t_residual, g)
    _norm.check_parameters(what, z, (*channels,), weight=weight, bias=bias, grad_weight=grad_weight)
    _norm.check_parameters(what, z, (groups, *channels), mean=mean, rstd=rstd)
    return (*channels,)
