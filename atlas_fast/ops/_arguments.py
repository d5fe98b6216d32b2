"""Checks and conversions that the image operations share."""

import math

import torch

from ..errors import UserError

FLOATS = (torch.float32, torch.float64, torch.bfloat16)


def number_and_tensor(value, name: str, x: torch.Tensor) -> tuple[float, torch.Tensor | None]:
    """Split a number or 0-d tensor into the (factor, device scalar) pair of the schemas.

    A tensor stays on the device (a captured graph reads it at every replay), in the type that the kernel computes in:
    float64 for float64 images, else float32.
    """
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.device != x.device:
            raise UserError(f"{name} must be a number or a scalar tensor on {x.device}, got {list(value.shape)} "
                            f"on {value.device}")
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return 1.0, value.detach().to(dtype).reshape(())
    value = float(value)
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{name} must be finite and >= 0, got {value}")
    return value, None


def scaled(value: float, tensor: torch.Tensor | None, dtype: torch.dtype):
    """value * tensor in `dtype`, as the kernels compute it; a number where there is no tensor."""
    return value if tensor is None else tensor.to(dtype) * value


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which kernels compute: float64 for float64, float32 for the rest."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_images(x: torch.Tensor, *others: torch.Tensor, what: str) -> None:
    """All tensors: at least 2-d (samples first), one floating dtype, one shape, one device."""
    if x.dtype not in FLOATS:
        raise UserError(f"{what} needs float32, float64 or bfloat16 images, got {x.dtype}")
    if x.dim() < 2:
        raise UserError(f"{what} needs a batch of images [N, ...], got shape {list(x.shape)}")
    for other in others:
        if other.shape != x.shape or other.dtype != x.dtype or other.device != x.device:
            raise UserError(f"{what} needs tensors of one shape, dtype and device, got {list(x.shape)} {x.dtype} "
                            f"{x.device} and {list(other.shape)} {other.dtype} {other.device}")
