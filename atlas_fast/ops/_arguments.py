"""Checks and conversions that the image operations share."""

from numbers import Integral, Real

import torch

from ..errors import UserError

FLOATS = (torch.float32, torch.float64, torch.bfloat16)
_LARGEST = {dtype: torch.finfo(dtype).max for dtype in (torch.float32, torch.float64)}


def check_tensors(what: str, *values) -> None:
    """All are tensors. Raises UserError."""
    for value in values:
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{what} needs tensors, got {type(value).__name__}")


def whole(value: float, low: int) -> bool:
    """Whether `value` is a whole number from `low` up that fits in 63 bits."""
    return isinstance(value, Integral) and low <= value < 2**63


def number_and_tensor(value: float | torch.Tensor, name: str, x: torch.Tensor) -> tuple[float, torch.Tensor | None]:
    """Split a number or 0-d tensor into the (factor, device scalar) pair of the schemas.

    A tensor stays on the device (a captured graph reads it at every replay), in the type that the kernel computes in:
    float64 for float64 images, else float32.
    """
    dtype = compute_dtype(x.dtype)
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.device != x.device or value.is_complex():
            raise UserError(f"{name} must be a number or a scalar tensor on {x.device}, got {list(value.shape)} "
                            f"{value.dtype} on {value.device}")
        return 1.0, value.detach().to(dtype).reshape(())
    if not isinstance(value, Real):
        raise UserError(f"{name} must be a number or a scalar tensor on {x.device}, got {type(value).__name__}")
    if not 0 <= value <= _LARGEST[dtype]:  # beyond, it would be infinite to the kernel, and infinity times 0 is NaN
        raise UserError(f"{name} must be finite and >= 0 (up to {_LARGEST[dtype]:.3g}, computed in {dtype}), "
                        f"got {value if isinstance(value, float) else type(value).__name__}")
    return float(value), None


def scaled(value: float, tensor: torch.Tensor | None, dtype: torch.dtype):
    """value * tensor in `dtype`, as the kernels compute it; a number where there is no tensor."""
    return value if tensor is None else tensor.to(dtype) * value


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which kernels compute: float64 for float64, float32 for the rest."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_images(x: torch.Tensor, *others: torch.Tensor, what: str) -> None:
    """All tensors: at least 2-d (samples first), one floating dtype, one shape, one device."""
    check_tensors(what, x, *others)
    if x.dtype not in FLOATS:
        raise UserError(f"{what} needs float32, float64 or bfloat16 images, got {x.dtype}")
    if x.dim() < 2:
        raise UserError(f"{what} needs a batch of images [N, ...], got shape {list(x.shape)}")
    for other in others:
        if other.shape != x.shape or other.dtype != x.dtype or other.device != x.device:
            raise UserError(f"{what} needs tensors of one shape, dtype and device, got {list(x.shape)} {x.dtype} "
                            f"{x.device} and {list(other.shape)} {other.dtype} {other.device}")
