"""mnist, cifar10 and cifar100 through torchvision, which knows their files, their checksums and where to get them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .checks import images_from_array, labels_from_array
from .dataset import Dataset

CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
SIZES = ((1, 28, 28), (3, 32, 32))
FILES = {"mnist": "MNIST/raw/train-images-idx3-ubyte.gz and its three companions",
         "cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def load_torchvision(name: str, data_dir: str | Path) -> Dataset:
    """The official data set `name`; files missing under data_dir are downloaded. UserError where that fails."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise UserError(f"--dataset {name} needs torchvision, which is not installed: pip install torchvision, "
                        "or use --dataset digits or --dataset npz") from error
    data_dir = Path(data_dir)
    had_folder = data_dir.exists()
    try:
        train, test = (_open(getattr(datasets, CLASSES[name]), data_dir, part) for part in (True, False))
    except pickle.UnpicklingError as error:  # torchvision still reads the .pt files that it made of MNIST once
        raise UserError(f"files of {name} under {data_dir} are damaged or hold pickled code, which is not run; remove "
                        f"them, the official ones ({FILES[name]}) are enough") from error
    except Exception as error:  # torchvision checks archives, not the files that lie unpacked beside them
        if not had_folder:
            _remove_empty(data_dir)
        raise UserError(
            f"{name} is not under {data_dir} and could not be downloaded ({_short(error)}): connect to the network, "
            f"or put the official files under {data_dir} ({FILES[name]}), or use --dataset digits or --dataset npz"
        ) from error
    parts = [_tensors(part, f"the {what} images of {name} under {data_dir}", len(train.classes))
             for part, what in ((train, "training"), (test, "test"))]
    return Dataset(name, *parts[0], *parts[1], num_classes=len(train.classes), classes=list(train.classes))


def _open(kind, data_dir: Path, train: bool):
    """Without a download first: torchvision would ask the network even where only the archive is missing."""
    try:
        return kind(str(data_dir), train=train, download=False)
    except RuntimeError:
        return kind(str(data_dir), train=train, download=True)


def _tensors(part, where: str, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = images_from_array(np.asarray(part.data), where)
    labels = labels_from_array(np.asarray(part.targets), len(images), f"the file of the labels of {where}")
    if tuple(images.shape[1:]) not in SIZES:
        raise UserError(f"{where} are of {list(images.shape[1:])} pixels, not those of the official files; remove them")
    if int(labels.max()) >= classes:
        raise UserError(f"{where} have the label {int(labels.max())}, but there are {classes} classes; remove the "
                        "damaged files")
    return images, labels


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":. ") if lines else type(error).__name__


def _remove_empty(folder: Path) -> None:
    """Remove the empty folders that a failed download leaves."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
