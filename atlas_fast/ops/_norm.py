"""What the three BatchNorm operations share: statistics per group of samples, the ReLU's mask, checks.

A batch [N,C,H,W] holds `groups` equal runs of consecutive samples, each normalised by its own statistics: x' and x
travel as one batch of two groups. Statistics and parameters are float32 (float64 for float64 activations).
"""

import torch

from ..errors import UserError
from ._arguments import check_images, check_tensors, compute_dtype, whole


def per_sample(statistics: torch.Tensor, samples: int) -> torch.Tensor:
    """[groups, C] as [samples, C, 1, 1]."""
    return statistics.repeat_interleave(samples // len(statistics), 0)[:, :, None, None]


def group_sums(value: torch.Tensor, groups: int) -> torch.Tensor:
    """Sums over samples and pixels: [N,C,H,W] -> [groups, C]."""
    return value.unflatten(0, (groups, len(value) // groups)).sum((1, 3, 4))


def group_statistics(z: torch.Tensor, groups: int) -> torch.Tensor:
    """Mean and biased variance of [N,C,H,W]: [2, groups, C]."""
    var, mean = torch.var_mean(z.unflatten(0, (groups, len(z) // groups)), (1, 3, 4), correction=0)
    return torch.stack([mean, var])


def normalised(z: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor) -> torch.Tensor:
    """yh = (z - mean) rstd in the computing precision."""
    return (z.to(mean.dtype) - per_sample(mean, len(z))) * per_sample(rstd, len(z))


def affine(yh: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    """weight yh + bias per channel."""
    scaled = yh if weight is None else yh * weight[:, None, None]
    return scaled if bias is None else scaled + bias[:, None, None]


def masked(value: torch.Tensor, yh: torch.Tensor, weight, bias, relu: bool) -> torch.Tensor:
    """value [weight yh + bias > 0] with a ReLU, in the precision of yh; NaN lets through, as in threshold_backward."""
    value = value.to(yh.dtype)
    return torch.where(affine(yh, weight, bias) <= 0, 0.0, value) if relu else value


def scale(weight: torch.Tensor | None, rstd: torch.Tensor) -> torch.Tensor:
    """weight rstd, [groups, C]."""
    return rstd if weight is None else weight * rstd


def stored(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`value` rounded once, in the dtype and memory layout of `like`."""
    return torch.empty_like(like).copy_(value)


def check_activations(what: str, x: torch.Tensor, groups: int, *others: torch.Tensor | None) -> None:
    """x: [N,C,H,W] float32, float64 or bfloat16 with N a multiple of groups; the others like x."""
    check_images(x, *(other for other in others if other is not None), what=what)
    if x.dim() != 4:
        raise UserError(f"{what} needs activations [N,C,H,W], got shape {list(x.shape)}")
    if not whole(groups, 1) or len(x) % groups:
        raise UserError(f"{what} needs groups that divide the {len(x)} samples, got {groups!r}")


def check_parameters(what: str, x: torch.Tensor, shape: tuple[int, ...], **tensors: torch.Tensor | None) -> None:
    """Each tensor (or None): `shape`, contiguous, on the device of x, in its computing precision."""
    dtype = compute_dtype(x.dtype)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        check_tensors(what, tensor)
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device != x.device or not tensor.is_contiguous():
            raise UserError(f"{what} needs {name} contiguous {list(shape)} {dtype} on {x.device} for {x.dtype} "
                            f"activations, got {list(tensor.shape)} {tensor.dtype} on {tensor.device}")
