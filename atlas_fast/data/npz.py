"""A .npz file in MedMNIST's key layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError
from .checks import count_classes, images_from_array, labels_from_array
from .dataset import Dataset


def load_npz(data_dir: str | Path) -> Dataset:
    """`data_dir`: the .npz file, or a folder that holds exactly one.

    Keys: train_images, train_labels, test_images, test_labels, and optionally val_images, val_labels; images uint8
    or floats in [0,1], [N,H,W] or [N,H,W,C]; labels whole numbers [N] or [N,1]. UserError: anything else.
    """
    path = _find(Path(data_dir))
    arrays = _read(path)
    parts = {}
    for part in ("train", "test") + (("val",) if "val_images" in arrays else ()):
        images = images_from_array(arrays[f"{part}_images"], f"{part}_images in {path}")
        labels = labels_from_array(arrays[f"{part}_labels"], len(images), f"{part}_labels in {path}")
        parts[part] = (images, labels)
    train = parts["train"][0]
    for part, (images, _) in parts.items():
        if images.shape[1:] != train.shape[1:] or images.dtype != train.dtype:
            raise UserError(f"{part}_images in {path} ({images.dtype}, {list(images.shape[1:])}) and train_images "
                            f"({train.dtype}, {list(train.shape[1:])}) must be of one type and size")
    others = {f"{part}_labels in {path}": parts[part][1] for part in parts if part != "train"}
    classes = count_classes(parts["train"][1], others, f"train_labels in {path}")
    return Dataset("npz", *parts["train"], *parts["test"], num_classes=classes, val=parts.get("val"))


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}; --data-dir must name the .npz file or its folder")
    found = sorted(path.glob("*.npz"))
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise UserError(f"{path} must hold exactly one .npz file (found: {names}); --data-dir may name the file itself")
    return found[0]


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{path} is a single array; it must be a .npz archive with train_images and train_labels")
        with archive:
            arrays = {key: archive[key] for key in archive.files if key.rsplit("_", 1)[0] in ("train", "test", "val")}
    except UserError:
        raise
    except Exception as error:  # a damaged header or archive may raise anything, MemoryError for an absurd size
        raise UserError(f"{path} cannot be read as a .npz file ({error}); it is corrupt or of another kind") from error
    needed = ["train_images", "train_labels", "test_images", "test_labels"]
    if "val_images" in arrays or "val_labels" in arrays:
        needed += ["val_images", "val_labels"]
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; it needs {', '.join(needed)} (MedMNIST's layout)")
    return arrays
