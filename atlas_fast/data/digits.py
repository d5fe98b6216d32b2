"""scikit-learn's handwritten digits (UCI, Alpaydin & Kaynak 1998): 1,797 images of 8x8, real and offline."""

from __future__ import annotations

import torch

from ..errors import UserError
from .dataset import Dataset


def load_digits() -> Dataset:
    """Images float32 [N,1,8,8] = pixel/16; the fixed split: every fifth image of each class (in the file's order,
    beginning with its first) is a test image, which gives 364 test and 1,433 training images."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError("--dataset digits needs scikit-learn, which is not installed: "
                        "pip install scikit-learn") from error
    raw = datasets.load_digits()
    images = torch.from_numpy(raw.images).float().div_(16).unsqueeze(1)
    labels = torch.from_numpy(raw.target).to(torch.int64)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        is_test[(labels == label).nonzero()[::5, 0]] = True
    return Dataset("digits", images[~is_test], labels[~is_test], images[is_test], labels[is_test], num_classes=10,
                   classes=[str(label) for label in range(10)])
