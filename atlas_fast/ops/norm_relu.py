"""BatchNorm with the residual sum before it and the ReLU behind it, as one operation:

    z = a + residual,   yh = (z - mean) rstd,   out = max(weight yh + bias, 0),   rstd = (var + eps)^-1/2.

mean and var are those of z as stored (rounded to its dtype), taken per group of samples (ops/_norm.py), or the running
ones. Its derivatives are the operations norm_relu_backward and norm_relu_tangent.
"""

import torch

from ..errors import UserError
from . import _norm
from ._arguments import compute_dtype
from ._registry import define


def norm_relu_reference(a, residual, weight, bias, running_mean, running_var, groups, batch_statistics, momentum, eps,
                        relu):
    """The definition. Where there is no residual the first output is empty: z is a itself."""
    z = a if residual is None else _norm.stored(a + residual, a)
    wide = z.to(compute_dtype(z.dtype))
    if batch_statistics:
        mean, var = _norm.group_statistics(wide, groups)
        _update(running_mean, mean, momentum)
        count = z.numel() // mean.numel()
        _update(running_var, var * (count / (count - 1)), momentum)
    else:
        mean, var = running_mean.repeat(groups, 1), running_var.repeat(groups, 1)
    rstd = (var + eps).rsqrt()
    out = _norm.affine(_norm.normalised(z, mean, rstd), weight, bias)
    out = _norm.stored(out.relu() if relu else out, z)
    return a.new_empty(0) if residual is None else z, out, mean, rstd


def _update(running, statistics, momentum):
    """As one nn.BatchNorm2d forward per group, in order."""
    if running is not None:
        for value in statistics:
            running.mul_(1 - momentum).add_(value, alpha=momentum)


def _fake(a, residual, weight, bias, running_mean, running_var, groups, batch_statistics, momentum, eps, relu):
    mean, rstd = (a.new_empty(groups, a.shape[1], dtype=compute_dtype(a.dtype)) for _ in range(2))
    return a.new_empty(0) if residual is None else torch.empty_like(a), torch.empty_like(a), mean, rstd


_op = define("norm_relu", "(Tensor a, Tensor? residual, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
             "Tensor(b!)? running_var, int groups, bool batch_statistics, float momentum, float eps, bool relu) "
             "-> (Tensor, Tensor, Tensor, Tensor)", norm_relu_reference, _fake, launches=2)


def launches(batch_statistics: bool) -> int:
    """Kernels that one call runs on a GPU (channels-last): statistics and their use, or the use alone."""
    return 2 if batch_statistics else 1


@torch.no_grad()
def norm_relu(a: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None,
              running_mean: torch.Tensor | None, running_var: torch.Tensor | None, groups: int = 1,
              batch_statistics: bool = True, momentum: float = 0.1, eps: float = 1e-5,
              relu: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(z, out, mean, rstd); not differentiable by autograd.

    a: [N,C,H,W] float32, float64 or bfloat16; residual: like a, or None (then the returned z is a itself). weight,
    bias: [C] or None. groups: runs of consecutive samples with statistics of their own. batch_statistics: normalise
    with the statistics of z and move running_mean and running_var ([C] or None, changed in place) towards them by
    `momentum`, as one nn.BatchNorm2d forward per group would, in order and with the unbiased variance; otherwise
    normalise with the running ones. z, out: like a. mean, rstd: [groups, C]. Parameters and statistics are float32,
    for float64 activations float64. On a GPU activations that are not channels-last take the PyTorch reference.
    Raises UserError for other shapes, dtypes or devices, for groups that do not divide N, for one value per channel
    and group with batch statistics, and for missing running statistics without.
    """
    _norm.check_activations("norm_relu", a, groups, residual)
    _norm.check_parameters("norm_relu", a, (a.shape[1],), weight=weight, bias=bias, running_mean=running_mean,
                           running_var=running_var)
    if batch_statistics and a.numel() <= groups * a.shape[1]:
        raise UserError(f"norm_relu needs more than 1 value per channel and group for batch statistics, got shape "
                        f"{list(a.shape)} in {groups} groups")
    if (running_mean is None) != (running_var is None) or not (batch_statistics or running_mean is not None):
        raise UserError("norm_relu needs both running_mean and running_var, or with batch statistics neither")
    z, *results = _op(a, residual, weight, bias, running_mean, running_var, groups, batch_statistics, momentum, eps,
                      relu)
    return a if residual is None else z, *results
