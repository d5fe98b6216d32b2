"""mnist, cifar10 and cifar100 through torchvision, which knows their files, their checksums and where to get them."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from ..errors import UserError
from .dataset import Dataset

CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
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
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        if not had_folder:
            _remove_empty(data_dir)
        raise UserError(
            f"{name} is not under {data_dir} and could not be downloaded ({_short(error)}): connect to the network, "
            f"or put the official files under {data_dir} ({FILES[name]}), or use --dataset digits or --dataset npz"
        ) from error
    return Dataset(name, *_tensors(train), *_tensors(test), num_classes=len(train.classes), classes=list(train.classes))


def _open(kind, data_dir: Path, train: bool):
    """Without a download first: torchvision would ask the network even where only the archive is missing."""
    try:
        return kind(str(data_dir), train=train, download=False)
    except RuntimeError:
        return kind(str(data_dir), train=train, download=True)


def _tensors(part) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.as_tensor(part.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(part.targets, dtype=torch.int64)


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
