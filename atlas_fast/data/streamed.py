"""Batches of images that stay in their files: worker processes decode ahead of the step, nothing is kept."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from .. import ops
from ..errors import UserError
from .batches import check_sizes
from .dataset import permutation
from .image_files import ImageFiles, centre, default_workers, read_rgb


class StreamedBatches:
    """The same as `Batches` (order, parts, what is left over), of files. Batches are uint8, and host memory is pinned
    where the device is a GPU, so that copies run beside the step.

    crops: a new random resized crop and flip of every image in every epoch (torchvision's RandomResizedCrop), drawn
    from (seed, epoch, place of the image among all), so that neither workers nor processes nor a resume change it;
    False: the centre, always. workers: processes that decode, 0: this one; None: as many as there are cores, at most 8.
    Each process decodes its part alone. UserError: as of Batches; torchvision is missing; while the batches are made,
    a file that is no image.
    """

    def __init__(self, images: ImageFiles, labels: torch.Tensor, batch_size: int, seed: int, device: torch.device,
                 max_batches: int | None = None, part: tuple[int, int] = (0, 1), crops: bool = False,
                 workers: int | None = None):
        self._part = check_sizes(len(labels), batch_size, part)
        self.labels, self.batch_size, self.seed, self.device = labels, batch_size, seed, device
        self.channels_last = device.type == "cuda"
        self.count = min(len(labels) // batch_size, max_batches or len(labels))
        self.workers = default_workers() if workers is None else workers
        self._order = _Order()
        self._loader = DataLoader(_Decoder(images, seed, crops), batch_sampler=self._order, collate_fn=_stacked,
                                  num_workers=self.workers, persistent_workers=self.workers > 0,
                                  worker_init_fn=_leave_signals,
                                  pin_memory=device.type == "cuda", generator=torch.Generator())  # not the global one

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.count

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of this epoch (0, 1, ...) from the first-th (0, 1, ...) on, on the device."""
        order = permutation(len(self.labels), self.seed, epoch, ops.SHUFFLE)
        rows = [order[i * self.batch_size:(i + 1) * self.batch_size][self._part] for i in range(first, self.count)]
        self._order.keys = [[(epoch, index) for index in chosen.tolist()] for chosen in rows]
        decoded = iter(self._loader)
        for chosen in rows:
            x = next(decoded)
            if isinstance(x, str):
                raise UserError(x)
            y = self.labels[chosen]
            if self.device.type == "cuda":
                x, y = x.to(self.device, non_blocking=True), y.pin_memory().to(self.device, non_blocking=True)
            yield (x.contiguous(memory_format=torch.channels_last) if self.channels_last else x), y


@contextlib.contextmanager
def loss_of_workers_reported() -> Iterator[None]:
    """Inside, a worker that was killed (as a system out of memory does) is a UserError. PyTorch raises a RuntimeError
    for it wherever the program then is, be it in the middle of a step."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(f"a process that decodes images has ended ({str(error).splitlines()[0]}); what was saved "
                        "stays, --resume goes on from it, and fewer --workers need less memory") from error


def _leave_signals(worker: int) -> None:
    """A signal to all of a job's processes (Ctrl-C, a cluster's SIGTERM) is the trainer's: it saves after the step, for
    which it needs its batch, and ends its workers itself. They end too when it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Order:
    """What the loader asks for, batch by batch: (epoch, image)."""

    def __init__(self):
        self.keys: list[list[tuple[int, int]]] = []

    def __iter__(self):
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Decoder(Dataset[torch.Tensor | str]):
    """decoder[epoch, image]: uint8 [3, size, size], or what is wrong with its file, in words: an exception would come
    out of the worker process with its traceback for a message."""

    def __init__(self, images: ImageFiles, seed: int, crops: bool):
        self._images, self._seed = images, seed
        self._transform = random_crop(images.size) if crops else None

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor | str:
        epoch, index = key
        try:
            image = read_rgb(self._images.path(index))
        except UserError as error:
            return str(error)
        if self._transform is None:
            return torch.from_numpy(centre(image, self._images.size)).permute(2, 0, 1)
        words = ops.random_bits(ops.make_rng(self._seed, epoch), 1, 2, ops.rng.stream(ops.AUGMENT, 1), index)[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
            return self._transform(image)


def random_crop(size: int):
    """Pillow image -> uint8 [3, size, size]: 8 to 100% of its area, sides 3:4 to 4:3, mirrored half of the time."""
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise UserError("--augment resized-crop needs torchvision, which is not installed: "
                        "pip install torchvision") from error
    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()])


def _stacked(images: list[torch.Tensor | str]) -> torch.Tensor | str:
    """The batch, or what is wrong with the first file that is."""
    decoded = list[torch.Tensor]()
    for image in images:
        if isinstance(image, str):
            return image
        decoded.append(image)
    return torch.stack(decoded)
