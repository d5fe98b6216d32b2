"""Class folders: DATA_DIR/train/<class>/*, DATA_DIR/test/<class>/* (or val/), any image files that Pillow reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .dataset import Dataset
from .image_files import ImageFiles, centre, read_rgb

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
IN_MEMORY = 4 * 2**30
"""Bytes of decoded images above which they stay in their files."""


def load_image_folder(data_dir: str | Path, image_size: int | None = None, stream: bool | None = None) -> Dataset:
    """Every image as RGB uint8 (grey ones too).

    image_size: resize the shorter side to it and cut out the centre square; None: all images must already be squares
    of one size. test/ and val/: with both, val/ is the validation set; with val/ alone it is the test set.
    stream: leave the images in their files, to be decoded whenever they are needed (the same pixels); None: where they
    would fill more than IN_MEMORY bytes. UserError: missing or wrong files; stream without image_size.
    """
    root = Path(data_dir)
    if not (root / "train").is_dir():
        raise UserError(f"there is no folder {root / 'train'}; --data-dir must hold train/<class>/ and test/<class>/")
    has = [part for part in ("test", "val") if (root / part).is_dir()]
    if not has:
        raise UserError(f"{root} holds neither test/ nor val/; one of them, with a folder for each class, is needed")
    classes = sorted(folder.name for folder in (root / "train").iterdir() if folder.is_dir())
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} holds {len(classes)} class folders; at least two are needed")
    listed = {part: _list_part(root / part, classes) for part in ("train", *has)}
    size = image_size or _size_of_first(root / "train", listed["train"][0])
    needed = sum(len(names) for names, _ in listed.values()) * 3 * size**2
    parts: dict[str, tuple[torch.Tensor | ImageFiles, torch.Tensor]]
    if stream or (stream is None and needed > IN_MEMORY):
        if image_size is None:
            raise UserError(f"the images of {root} are to be decoded while they are used (together they would fill "
                            f"{needed / 2**30:.1f} GiB), which needs one size for all: give --image-size")
        parts = {part: (ImageFiles(root / part, names, size), labels) for part, (names, labels) in listed.items()}
    else:
        parts = {part: (_read_all(root / part, names, image_size), labels)
                 for part, (names, labels) in listed.items()}
    for name in has:
        if parts[name][0].shape[1:] != parts["train"][0].shape[1:]:
            raise UserError(f"the images of {root / name} are of another size than those of {root / 'train'}; "
                            "--image-size resizes all of them")
    return Dataset("imagefolder", *parts["train"], *parts[has[0]], num_classes=len(classes),
                   val=parts["val"] if len(has) == 2 else None, classes=classes)


def _list_part(folder: Path, classes: list[str]) -> tuple[np.ndarray, torch.Tensor]:
    """Files (bytes, relative to the folder) by class and name, and their labels."""
    unknown = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name not in classes)
    if unknown:
        raise UserError(f"{folder} holds the class {unknown[0]!r}, which train/ does not; the classes must agree")
    found = [_images_in(folder / name) if (folder / name).is_dir() else [] for name in classes]
    counts = np.array([len(names) for names in found])
    if folder.name == "train" and not counts.all():
        raise UserError(f"{folder / classes[int(counts.argmin())]} holds no image; every class needs at least one")
    if not counts.any():
        raise UserError(f"{folder} holds no image; it needs <class>/ folders with image files")
    names = [os.fsencode(os.path.join(name, file)) for name, files in zip(classes, found, strict=True)
             for file in files]
    return np.array(names), torch.from_numpy(np.arange(len(classes)).repeat(counts))


def _images_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if os.path.splitext(entry.name)[1].lower() in SUFFIXES)


def _size_of_first(folder: Path, names: np.ndarray) -> int:
    return max(read_rgb(folder / os.fsdecode(names[0])).size)


def _read_all(folder: Path, names: np.ndarray, image_size: int | None) -> torch.Tensor:
    images, first = np.empty(0, np.uint8), None
    for index, name in enumerate(names):
        path = folder / os.fsdecode(name)
        image = centre(read_rgb(path), image_size)
        if first is None:
            first = image.shape
            if first[0] != first[1]:
                raise UserError(f"{path} is {first[1]}x{first[0]} pixels, not square; --image-size resizes and crops")
            images = np.empty((len(names), *first), np.uint8)
        elif image.shape != first:
            raise UserError(f"{path} is {image.shape[1]}x{image.shape[0]} pixels, others are {first[1]}x{first[0]}; "
                            "images must be of one size, or give --image-size")
        images[index] = image
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
