"""The adjoint of norm_relu. With g the adjoint of out, n values per channel and group, and m(.) their mean:

    D = g [weight yh + bias > 0],   dz = weight rstd (D - m(D) - yh m(D yh)),   dweight = sum(D yh),   dbias = sum(D).

With running statistics dz = weight rstd D. The mask is recomputed from z, so that out need not be kept.

Where several processes hold parts of a batch and share their statistics, m(.) is a mean over all of them: one call
for this part's sums, one for dz from what all agreed upon.
"""

import torch

from ..errors import UserError
from . import _norm
from ._registry import define


def norm_relu_backward_reference(g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias,
                                 groups, batch_statistics, relu, input_too, given=None):
    """The definition; outputs that were not asked for are empty."""
    yh = _norm.normalised(z, mean, rstd)
    adjoint = _norm.masked(g, yh, weight, bias, relu)
    sums = mean.new_empty(0)
    if sums_wanted(grad_weight, grad_bias, batch_statistics, input_too, given):
        sums = torch.stack([_norm.group_sums(adjoint, groups), _norm.group_sums(adjoint * yh, groups)])
        for grad, value in ((grad_bias, sums[0]), (grad_weight, sums[1])):
            if grad is not None:
                grad.add_(value.sum(0))
    if not input_too:
        return z.new_empty(0), sums
    if batch_statistics:
        means = (sums if given is None else given) / (z.numel() // mean.numel())
        adjoint = adjoint - _norm.per_sample(means[0], len(z)) - yh * _norm.per_sample(means[1], len(z))
    dz = adjoint * _norm.per_sample(_norm.scale(weight, rstd), len(z))
    if residual_adjoint is not None:
        dz = dz + residual_adjoint
    if extra is not None:
        dz[:len(extra)] += extra
    return _norm.stored(dz, z), sums


def sums_wanted(grad_weight, grad_bias, batch_statistics: bool, input_too: bool, given=None) -> bool:
    """Whether anything needs the sums: crafting with running statistics does not, and given ones are there."""
    return given is None and (batch_statistics or not input_too or grad_weight is not None or grad_bias is not None)


def _fake(g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias, groups, batch_statistics,
          relu, input_too, given):
    wanted = sums_wanted(grad_weight, grad_bias, batch_statistics, input_too, given)
    return (torch.empty_like(z) if input_too else z.new_empty(0),
            mean.new_empty((2, *mean.shape) if wanted else 0))


_op = define("norm_relu_backward", "(Tensor g, Tensor z, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, "
             "Tensor? residual_adjoint, Tensor? extra, Tensor(a!)? grad_weight, Tensor(b!)? grad_bias, int groups, "
             "bool batch_statistics, bool relu, bool input_too, Tensor? given) -> (Tensor, Tensor)",
             norm_relu_backward_reference, _fake, launches=2)


def launches(grad_weight: bool, grad_bias: bool, batch_statistics: bool, input_too: bool) -> int:
    """Kernels that one call runs on a GPU (channels-last): one for each pass over the activations, or one pass and one
    that adds up its sums; the first two arguments say whether these gradients are wanted."""
    return 2 if sums_wanted(grad_weight or None, grad_bias or None, batch_statistics, input_too) else 1


@torch.no_grad()
def norm_relu_backward(g: torch.Tensor, z: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor,
                       weight: torch.Tensor | None, bias: torch.Tensor | None,
                       residual_adjoint: torch.Tensor | None = None, extra: torch.Tensor | None = None,
                       grad_weight: torch.Tensor | None = None, grad_bias: torch.Tensor | None = None, groups: int = 1,
                       batch_statistics: bool = True, relu: bool = True, input_too: bool = True,
                       given: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(dz, sums); not differentiable by autograd (norm_relu_tangent is its derivative).

    g: adjoint of out, [N,C,H,W], any strides (expanded over pixels: read without a dense copy); z, mean, rstd: as
    norm_relu returned them; weight, bias, groups, batch_statistics, relu: as it was given them. dz: like z, rounded
    once, with residual_adjoint (like z or None) and extra ([M,C,H,W], M <= N, or None: the second-order adjoint of the
    first M samples) added. sums: [2, groups, C], sum(D) and sum(D yh). grad_weight, grad_bias: [C] or None, increased
    in place by the sums over groups. input_too False: dz is empty. Without input_too False, batch statistics or a
    gradient nothing needs the sums: they are empty. given: sums that dz is made of instead of those of this batch, as
    an earlier call with input_too False returned them, averaged over the processes; then no sums come back and no
    gradient is added to. On a GPU activations that are not channels-last take the PyTorch reference. Raises UserError
    for other shapes, dtypes or devices, for groups that do not divide N, and for given sums that nothing would read.
    """
    what, channels = "norm_relu_backward", z.shape[1:2]
    _norm.check_activations(what, z, groups, g, residual_adjoint)
    _norm.check_parameters(what, z, (*channels,), weight=weight, bias=bias, grad_weight=grad_weight,
                           grad_bias=grad_bias)
    _norm.check_parameters(what, z, (groups, *channels), mean=mean, rstd=rstd)
    if extra is not None:
        if extra.dim() != 4 or len(extra) > len(z):
            raise UserError(f"{what} needs extra [M,C,H,W] with M <= {len(z)}, got shape {list(extra.shape)}")
        _norm.check_activations(what, z[:len(extra)], 1, extra)
    if given is not None:
        _norm.check_parameters(what, z, (2, groups, *channels), given=given)
        if not (batch_statistics and input_too) or grad_weight is not None or grad_bias is not None:
            raise UserError(f"{what} takes given sums for dz by batch statistics alone: leave the gradients to the "
                            "call that makes the sums")
    return _op(g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias, groups,
               batch_statistics, relu, input_too, given)
