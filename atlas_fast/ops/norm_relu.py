"""BatchNorm with the residual sum before it and the ReLU behind it, as one operation:

    z = a + residual,   yh = (z - mean) rstd,   out = max(weight yh + bias, 0),   rstd = (var + eps)^-1/2.

mean and var are those of z as stored (rounded to its dtype), taken per group of samples (ops/_norm.py), or the running
ones. Its derivatives are the operations norm_relu_backward and norm_relu_tangent.

Where several processes hold parts of a batch and share their statistics, one call gives this part's, another one out
from those of all.
"""

import torch

from ..errors import UserError
from . import _norm
from ._arguments import compute_dtype
from ._registry import define


def norm_relu_reference(a, residual, weight, bias, running_mean, running_var, groups, batch_statistics, momentum, eps,
                        relu, given=None, out_too=True):
    """The definition. Where there is no residual the first output is empty: z is a itself. Without out the second is
    empty, and the fourth is the variance."""
    z = a if residual is None else _norm.stored(a + residual, a)
    first, wide = a.new_empty(0) if residual is None else z, z.to(compute_dtype(z.dtype))
    if given is not None:
        mean, var = given[0].clone(), given[1]
    elif batch_statistics:
        mean, var = _norm.group_statistics(wide, groups)
        count = z.numel() // mean.numel()
        for running, own in ((running_mean, mean), (running_var, var * (count / max(count - 1, 1)))):
            _update(running, own, momentum)
    else:
        mean, var = running_mean.repeat(groups, 1), running_var.repeat(groups, 1)
    if not out_too:
        return first, a.new_empty(0), mean.clone(), var.clone()  # of one tensor
    rstd = (var + eps).rsqrt()
    out = _norm.affine(_norm.normalised(z, mean, rstd), weight, bias)
    return first, _norm.stored(out.relu() if relu else out, z), mean, rstd


def _update(running, statistics, momentum):
    """As one nn.BatchNorm2d forward per group, in order."""
    if running is not None:
        for value in statistics:
            running.mul_(1 - momentum).add_(value, alpha=momentum)


def _fake(a, residual, weight, bias, running_mean, running_var, groups, batch_statistics, momentum, eps, relu, given,
          out_too):
    mean, other = (a.new_empty(groups, a.shape[1], dtype=compute_dtype(a.dtype)) for _ in range(2))
    return (a.new_empty(0) if residual is None else torch.empty_like(a),
            torch.empty_like(a) if out_too else a.new_empty(0), mean, other)


_op = define("norm_relu", "(Tensor a, Tensor? residual, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
             "Tensor(b!)? running_var, int groups, bool batch_statistics, float momentum, float eps, bool relu, "
             "Tensor? given, bool out_too) -> (Tensor, Tensor, Tensor, Tensor)", norm_relu_reference, _fake,
             launches=2)


def launches(batch_statistics: bool) -> int:
    """Kernels that one call runs on a GPU (channels-last): statistics and their use, or the use alone."""
    return 2 if batch_statistics else 1


@torch.no_grad()
def norm_relu(a: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None,
              running_mean: torch.Tensor | None, running_var: torch.Tensor | None, groups: int = 1,
              batch_statistics: bool = True, momentum: float = 0.1, eps: float = 1e-5,
              relu: bool = True, given: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor,
                                                                             torch.Tensor]:
    """(z, out, mean, rstd); not differentiable by autograd.

    a: [N,C,H,W] float32, float64 or bfloat16; residual: like a, or None (then the returned z is a itself). weight,
    bias: [C] or None. groups: runs of consecutive samples with statistics of their own. batch_statistics: normalise
    with the statistics of z and move running_mean and running_var ([C] or None, changed in place) towards them by
    `momentum`, as one nn.BatchNorm2d forward per group would, in order and with the unbiased variance; otherwise
    normalise with the running ones. z, out: like a. mean, rstd: [groups, C]. Parameters and statistics are float32,
    for float64 activations float64. given: mean and biased variance, [2, groups, C], to be used instead of those of z
    (norm_relu_statistics of the parts of a batch, put together); no running ones are then moved, and None are needed.
    On a GPU activations that are not channels-last take the PyTorch reference. Raises UserError for other shapes,
    dtypes or devices, for groups that do not divide N, for one value per channel and group with batch statistics, for
    missing running statistics without, and for running statistics beside given ones.
    """
    _norm.check_activations("norm_relu", a, groups, residual)
    _norm.check_parameters("norm_relu", a, (a.shape[1],), weight=weight, bias=bias, running_mean=running_mean,
                           running_var=running_var)
    if given is not None:
        _norm.check_parameters("norm_relu", a, (2, groups, a.shape[1]), given=given)
        if not batch_statistics or running_mean is not None or running_var is not None:
            raise UserError("norm_relu takes given statistics as batch statistics, without running ones")
    elif batch_statistics and a.numel() <= groups * a.shape[1]:
        raise UserError(f"norm_relu needs more than 1 value per channel and group for batch statistics, got shape "
                        f"{list(a.shape)} in {groups} groups")
    if (running_mean is None) != (running_var is None) or not (batch_statistics or running_mean is not None):
        raise UserError("norm_relu needs both running_mean and running_var, or with batch statistics neither")
    z, *results = _op(a, residual, weight, bias, running_mean, running_var, groups, batch_statistics, momentum, eps,
                      relu, given, True)
    return a if residual is None else z, *results


@torch.no_grad()
def norm_relu_statistics(a: torch.Tensor, residual: torch.Tensor | None = None,
                         groups: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(z, mean, biased variance [groups, C]), also of one value; arguments, z and errors as in norm_relu."""
    _norm.check_activations("norm_relu_statistics", a, groups, residual)
    if a.numel() == 0:
        raise UserError(f"norm_relu_statistics needs values, got shape {list(a.shape)}")
    z, _, mean, var = _op(a, residual, None, None, None, None, groups, True, 0.0, 0.0, False, None, False)
    return a if residual is None else z, mean, var
