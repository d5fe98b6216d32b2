"""Which tensors of a file may become weights and buffers of a network."""

from __future__ import annotations

import torch


def readable(value: torch.Tensor) -> bool:
    """Whether it is a dense tensor of real numbers, with its values at hand."""
    return value.layout == torch.strided and not value.is_complex() and not value.is_quantized and not value.is_meta


def may_fill(value: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether it holds numbers of the wanted kind. PyTorch would copy integers into weights (a file whose header was
    damaged from F32 to I32 still has the right sizes), and the real part of complex numbers."""
    return readable(value) and value.is_floating_point() == wanted.is_floating_point()
