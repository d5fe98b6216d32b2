"""Data sets, in memory and on the device; `load` finds one by the name the command line uses."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .augment import CropFlip
from .batches import Batches, to_float
from .dataset import Dataset, limit_evaluation, split_validation
from .digits import load_digits
from .image_folder import load_image_folder
from .npz import load_npz
from .torchvision_sets import load_torchvision

__all__ = ["Batches", "CropFlip", "Dataset", "NAMES", "limit_evaluation", "load", "split_validation",
           "to_float"]

NAMES = ("digits", "mnist", "cifar10", "cifar100", "npz", "imagefolder")


def load(name: str, data_dir: str | Path = "data", image_size: int | None = None) -> Dataset:
    """The data set of this name. data_dir: its files (digits needs none; npz: the .npz file or its folder).

    image_size: only for imagefolder. UserError: unknown name, missing or wrong files.
    """
    if name not in NAMES:
        raise UserError(f"no data set is called {name!r}; data sets: {', '.join(NAMES)}")
    if image_size is not None and name != "imagefolder":
        raise UserError(f"--image-size is for --dataset imagefolder; {name} has a fixed image size")
    if image_size is not None and image_size < 4:
        raise UserError(f"--image-size must be 4 or more, not {image_size}")
    if name == "digits":
        return load_digits()
    if name == "npz":
        return load_npz(data_dir)
    if name == "imagefolder":
        return load_image_folder(data_dir, image_size)
    return load_torchvision(name, data_dir)
