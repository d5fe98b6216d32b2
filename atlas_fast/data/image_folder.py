"""Class folders: DATA_DIR/train/<class>/*, DATA_DIR/test/<class>/* (or val/), any image files that Pillow reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .dataset import Dataset

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def load_image_folder(data_dir: str | Path, image_size: int | None = None) -> Dataset:
    """Read every image as RGB uint8 (grey ones too).

    image_size: resize the shorter side to it and cut out the centre square; None: all images must already be squares
    of one size. test/ and val/: with both, val/ is the validation set; with val/ alone it is the test set.
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
    train = _read_part(root / "train", classes, image_size)
    test = _read_part(root / has[0], classes, image_size)
    val = _read_part(root / "val", classes, image_size) if len(has) == 2 else None
    for name, part in ((has[0], test), ("val", val)):
        if part is not None and part[0].shape[1:] != train[0].shape[1:]:
            raise UserError(f"the images of {root / name} are of another size than those of {root / 'train'}; "
                            "--image-size resizes all of them")
    return Dataset("imagefolder", *train, *test, num_classes=len(classes), val=val, classes=classes)


def _read_part(folder: Path, classes: list[str], image_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    unknown = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name not in classes)
    if unknown:
        raise UserError(f"{folder} holds the class {unknown[0]!r}, which train/ does not; the classes must agree")
    files = [(path, label) for label, name in enumerate(classes) if (folder / name).is_dir()
             for path in sorted((folder / name).iterdir()) if path.suffix.lower() in SUFFIXES]
    counts = np.bincount([label for _, label in files], minlength=len(classes))
    if folder.name == "train" and not counts.all():
        raise UserError(f"{folder / classes[int(counts.argmin())]} holds no image; every class needs at least one")
    if not files:
        raise UserError(f"{folder} holds no image; it needs <class>/ folders with image files")
    first = None
    images = np.empty(0, np.uint8)
    for index, (path, _) in enumerate(files):
        image = _read_image(path, image_size)
        if first is None:
            first = image.shape
            if first[0] != first[1]:
                raise UserError(f"{path} is {first[1]}x{first[0]} pixels, not square; --image-size resizes and crops")
            images = np.empty((len(files), *first), np.uint8)
        elif image.shape != first:
            raise UserError(f"{path} is {image.shape[1]}x{image.shape[0]} pixels, others are {first[1]}x{first[0]}; "
                            "images must be of one size, or give --image-size")
        images[index] = image
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _read_image(path: Path, image_size: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image; it is corrupt or of another kind") from error
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)
