"""The adjoint of norm_relu. With g the adjoint of out, n values per channel and group, and m(.) their mean:

    D = g [weight yh + bias > 0],   dz = weight rstd (D - m(D) - yh m(D yh)),   dweight = sum(D yh),   dbias = sum(D).

With running statistics dz = weight rstd D. The mask is recomputed from z, so that out need not be kept.
"""

import torch

from ..errors import UserError
from . import _norm
from ._registry import define


def norm_relu_backward_reference(g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias,
                                 groups, batch_statistics, relu, input_too, average=None):
    """The definition; outputs that were not asked for are empty. average: of the sums over the processes that hold
    equal parts of the batch, in place; None: there is one. The sums that come back are such means, and so are what dz
    is made of; the gradients of weight and bias are this part's."""
    yh = _norm.normalised(z, mean, rstd)
    adjoint = _norm.masked(g, yh, weight, bias, relu)
    sums = mean.new_empty(0)
    if sums_wanted(grad_weight, grad_bias, batch_statistics, input_too):
        sums = torch.stack([_norm.group_sums(adjoint, groups), _norm.group_sums(adjoint * yh, groups)])
        for grad, value in ((grad_bias, sums[0]), (grad_weight, sums[1])):
            if grad is not None:
                grad.add_(value.sum(0))
        if average is not None and batch_statistics and input_too:
            sums = average(sums)
    if not input_too:
        return z.new_empty(0), sums
    if batch_statistics:
        means = sums / (z.numel() // mean.numel())
        adjoint = adjoint - _norm.per_sample(means[0], len(z)) - yh * _norm.per_sample(means[1], len(z))
    dz = adjoint * _norm.per_sample(_norm.scale(weight, rstd), len(z))
    if residual_adjoint is not None:
        dz = dz + residual_adjoint
    if extra is not None:
        dz[:len(extra)] += extra
    return _norm.stored(dz, z), sums


def sums_wanted(grad_weight, grad_bias, batch_statistics: bool, input_too: bool) -> bool:
    """Whether anything needs the sums: crafting with running statistics does not."""
    return batch_statistics or not input_too or grad_weight is not None or grad_bias is not None


def _fake(g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias, groups, batch_statistics,
          relu, input_too):
    wanted = sums_wanted(grad_weight, grad_bias, batch_statistics, input_too)
    return (torch.empty_like(z) if input_too else z.new_empty(0),
            mean.new_empty((2, *mean.shape) if wanted else 0))


_op = define("norm_relu_backward", "(Tensor g, Tensor z, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, "
             "Tensor? residual_adjoint, Tensor? extra, Tensor(a!)? grad_weight, Tensor(b!)? grad_bias, int groups, "
             "bool batch_statistics, bool relu, bool input_too) -> (Tensor, Tensor)", norm_relu_backward_reference,
             _fake, launches=2)


def launches(grad_weight: bool, grad_bias: bool, batch_statistics: bool, input_too: bool) -> int:
    """Kernels that one call runs on a GPU (channels-last): one for each pass over the activations, or one pass and one
    that adds up its sums; the first two arguments say whether these gradients are wanted."""
    return 2 if sums_wanted(grad_weight or None, grad_bias or None, batch_statistics, input_too) else 1


@torch.no_grad()
def norm_relu_backward(g: torch.Tensor, z: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor,
                       weight: torch.Tensor | None, bias: torch.Tensor | None,
                       residual_adjoint: torch.Tensor | None = None, extra: torch.Tensor | None = None,
                       grad_weight: torch.Tensor | None = None, grad_bias: torch.Tensor | None = None, groups: int = 1,
                       batch_statistics: bool = True, relu: bool = True,
                       input_too: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """(dz, sums); not differentiable by autograd (norm_relu_tangent is its derivative).

    g: adjoint of out, [N,C,H,W], any strides (expanded over pixels: read without a dense copy); z, mean, rstd: as
    norm_relu returned them; weight, bias, groups, batch_statistics, relu: as it was given them. dz: like z, rounded
    once, with residual_adjoint (like z or None) and extra ([M,C,H,W], M <= N, or None: the second-order adjoint of the
    first M samples) added. sums: [2, groups, C], sum(D) and sum(D yh). grad_weight, grad_bias: [C] or None, increased
    in place by the sums over groups. input_too False: dz is empty. Without input_too False, batch statistics or a
    gradient nothing needs the sums: they are empty. On a GPU activations that are not channels-last take the PyTorch
    reference. Raises UserError for other shapes, dtypes or devices and for groups that do not divide N.
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
    return _op(g, z, mean, rstd, weight, bias, residual_adjoint, extra, grad_weight, grad_bias, groups,
               batch_statistics, relu, input_too)
