"""Data sets, in memory, on the device or in their files; `load` finds one by the name the command line uses."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .augment import CropFlip
from .batches import Batches, to_float
from .dataset import Dataset, limit_evaluation, split_validation
from .digits import load_digits
from .image_files import ImageFiles, rows_of
from .image_folder import load_image_folder
from .npz import load_npz
from .streamed import StreamedBatches, loss_of_workers_reported
from .torchvision_sets import load_torchvision

__all__ = ["Batches", "CropFlip", "Dataset", "ImageFiles", "NAMES", "StreamedBatches", "limit_evaluation", "load",
           "loss_of_workers_reported", "rows_of", "split_validation", "to_float"]

NAMES = ("digits", "mnist", "cifar10", "cifar100", "npz", "imagefolder")


def load(name: str, data_dir: str | Path = "data", image_size: int | None = None,
         stream: bool | None = None) -> Dataset:
    """The data set of this name. data_dir: its files (digits needs none; npz: the .npz file or its folder).

    image_size, stream: only for imagefolder, see there. UserError: unknown name, missing or wrong files.
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
        return load_image_folder(data_dir, image_size, stream)
    return load_torchvision(name, data_dir)
