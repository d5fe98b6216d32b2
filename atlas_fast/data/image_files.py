"""Images that stay in their files and are decoded when they are asked for."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError


class ImageFiles:
    """Square RGB images in files, to be used where a tensor uint8 [N, 3, size, size] is: `images[rows]` decodes.

    root: the folder that `names` (bytes, NumPy array [N], which processes share without copying) start from; size:
    pixels, of the shorter side of each image before the centre is cut out.
    """

    dtype, device = torch.uint8, torch.device("cpu")

    def __init__(self, root: Path, names: np.ndarray, size: int):
        self.root, self.names, self.size = root, names, size

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), 3, self.size, self.size))

    @property
    def nbytes(self) -> int:
        """What the decoded images would fill."""
        return self.shape.numel()

    def dim(self) -> int:
        """4, as of the tensor."""
        return 4

    def is_floating_point(self) -> bool:
        """False, as of the tensor: grey levels are uint8."""
        return False

    def path(self, index: int) -> Path:
        """Of this image's file."""
        return self.root / os.fsdecode(self.names[index])

    def subset(self, index) -> ImageFiles:
        """Only these images, still in their files."""
        return ImageFiles(self.root, self.names[_numpy(index)], self.size)

    def __getitem__(self, rows) -> torch.Tensor:
        """Decoded by threads (Pillow releases Python's lock): [n, 3, size, size], or [3, size, size] for one number.
        Raises UserError for a file that is no image."""
        if isinstance(rows, int):
            return self._decoded(rows)
        chosen = np.arange(len(self))[_numpy(rows)]
        with ThreadPoolExecutor(default_workers()) as pool:
            images = list(pool.map(self._decoded, chosen.tolist()))
        return torch.stack(images) if images else torch.empty((0, *self.shape[1:]), dtype=torch.uint8)

    def _decoded(self, index: int) -> torch.Tensor:
        return torch.from_numpy(centre(read_rgb(self.path(index)), self.size)).permute(2, 0, 1).contiguous()

    def fingerprint(self) -> str:
        """A short hash of names, lengths of files and size: reading all of the contents could take an hour."""
        digest = hashlib.sha256(f"files {self.size}".encode())
        for index, name in enumerate(self.names):
            digest.update(bytes(name) + f" {self.path(index).stat().st_size}\n".encode())
        return digest.hexdigest()[:16]


def rows_of(images: torch.Tensor | ImageFiles, index: torch.Tensor) -> torch.Tensor | ImageFiles:
    """Some of the images, decoded only if they were before."""
    return images.subset(index) if isinstance(images, ImageFiles) else images[index]


def read_rgb(path: Path):
    """A file as Pillow's RGB image (grey ones too). UserError: it is no image."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image; it is corrupt or of another kind") from error


def centre(image, size: int | None) -> np.ndarray:
    """uint8 [H, W, 3]: the shorter side resized to `size`, the centre square cut out; None: as it is."""
    from PIL import Image, ImageOps

    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.array(image)


def default_workers() -> int:
    """Processes or threads that decode: as many as this process has cores to itself, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _numpy(rows):
    return rows.numpy() if isinstance(rows, torch.Tensor) else rows
