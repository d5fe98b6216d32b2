"""Checks of images and labels that come from a user's file: every failure is one clear sentence."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import UserError


def images_from_array(array: np.ndarray, where: str) -> torch.Tensor:
    """Arrays [N,H,W] or [N,H,W,C], uint8 or floats in [0,1] -> images [N,C,H,W], uint8 or float32."""
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 2, 3, 4):
        raise UserError(f"{where} must have the shape [N,H,W] or [N,H,W,C] with 1 to 4 channels, "
                        f"not {list(array.shape)}")
    if array.shape[1] != array.shape[2]:
        raise UserError(f"{where} must be square, not {array.shape[1]}x{array.shape[2]} pixels")
    if array.size == 0:
        raise UserError(f"{where} is empty ({list(array.shape)}); it must hold at least one image, and images pixels")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(f"{where} must be uint8 (0..255) or floats in [0,1], not {array.dtype}")
        if not np.isfinite(array).all():
            raise UserError(f"{where} contains NaN or infinite values; images must be finite floats in [0,1]")
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            raise UserError(f"{where} lies in [{low:g}, {high:g}]; floats must lie in [0,1] (divide by 255), "
                            "or store the images as uint8")
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def labels_from_array(array: np.ndarray, n: int, where: str) -> torch.Tensor:
    """Integer labels [N] or [N,1] -> int64 [N]; n: the number of images they must match."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(f"{where} must have the shape [N] or [N,1], one class number an image, not {list(array.shape)}")
    if len(array) != n:
        raise UserError(f"{where} holds {len(array)} labels for {n} images; the numbers must agree")
    if array.dtype.kind not in "iu":
        raise UserError(f"{where} must hold whole numbers (class 0, 1, ...), not {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= 2**31:
        raise UserError(f"{where} holds the label {low if low < 0 else high}; labels must be 0 or more, and classes "
                        "are counted from 0")
    return torch.from_numpy(array.astype(np.int64))


def count_classes(train: torch.Tensor, others: dict[str, torch.Tensor], where: str) -> int:
    """The number of classes: training labels must be 0..C-1 with every class present, the others among them."""
    present = train.unique()
    classes = int(train.max()) + 1
    if len(present) != classes:
        raise UserError(f"{where} holds {len(present)} different labels but goes up to {classes - 1}; "
                        "labels must be 0..C-1 with every class present")
    if classes < 2:
        raise UserError(f"{where} holds one class only; at least two are needed")
    for name, labels in others.items():
        if int(labels.max()) >= classes:
            raise UserError(f"{name} holds the label {int(labels.max())}, out of range: the training labels are "
                            f"0..{classes - 1}")
    return classes
