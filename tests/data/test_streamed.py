"""Images that stay in their files: the pixels of those in memory, and crops that depend on nothing but their place."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from atlas_fast import data
from atlas_fast.data import Batches, ImageFiles, StreamedBatches, image_folder, split_validation, streamed
from atlas_fast.data.image_files import default_workers
from atlas_fast.errors import UserError

CPU, SIZE = torch.device("cpu"), 16


@pytest.fixture
def folder(tmp_path):
    """Two classes of pictures of many shapes, PNG and JPEG, some of them grey."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 7), ("val", 3)):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                shape = (int(rng.integers(17, 40)), int(rng.integers(17, 40)), *((3,) if i % 3 else ()))
                image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
                image.save(tmp_path / part / name / f"{i}.{'png' if i % 2 else 'jpg'}")
    return tmp_path


def both(folder):
    return (data.load("imagefolder", folder, SIZE, stream) for stream in (False, True))


def make(folder, workers=0, seed=1, crops=True, batch_size=4, part=(0, 1)):
    streams = data.load("imagefolder", folder, SIZE, True)
    return StreamedBatches(streams.train_images, streams.train_labels, batch_size, seed, CPU, None, part, crops,
                           workers)


def assert_equal(batches, expected):
    batches = list(batches)
    assert len(batches) == len(expected) > 0
    for (x, y), (x2, y2) in zip(batches, expected, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_pixels_are_those_in_memory(folder):
    held, streams = both(folder)
    assert isinstance(streams.train_images, ImageFiles) and isinstance(held.train_images, torch.Tensor)
    assert streams.test_images.shape == held.test_images.shape == (6, 3, SIZE, SIZE)
    for rows in (slice(None), slice(1, 5), torch.tensor([5, 0]), np.array([3]), slice(6, 9)):
        assert torch.equal(streams.test_images[rows], held.test_images[rows])
    assert torch.equal(streams.test_images[2], held.test_images[2])
    for a, b in ((split_validation(held, 5, 3), split_validation(streams, 5, 3)),
                 (data.limit_evaluation(held, 4, 3), data.limit_evaluation(streams, 4, 3))):
        for part in ("train_images", "test_images"):
            assert torch.equal(getattr(a, part), getattr(b, part)[:])
        assert torch.equal(a.test_labels, b.test_labels) and torch.equal(a.train_labels, b.train_labels)
        assert (a.val is None) == (b.val is None) and (a.val is None or torch.equal(a.val[0], b.val[0][:]))
    expected = list(Batches(held.train_images, held.train_labels, 4, 1, CPU).epoch(2))
    assert_equal(make(folder, crops=False).epoch(2), expected)


def test_crops_depend_on_seed_epoch_and_image_alone(folder):
    alone = make(folder)
    assert len(alone) == 3
    expected = list(alone.epoch(5))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert_equal(make(folder, workers=2).epoch(5, first=1), expected[1:])
    assert_equal(alone.epoch(5), expected)
    assert torch.equal(torch.get_rng_state(), before)  # dropout's
    parts = [list(make(folder, part=(i, 2)).epoch(5)) for i in range(2)]
    assert_equal([tuple(map(torch.cat, zip(*pair, strict=True))) for pair in zip(*parts, strict=True)], expected)
    images = {int(y.sum()): x for x, y in expected}
    assert all(x.dtype == torch.uint8 and x.shape == (4, 3, SIZE, SIZE) for x in images.values())
    for other in (make(folder, seed=2).epoch(5), alone.epoch(6)):
        assert not any(torch.equal(x, x2) for (x, _), (x2, _) in zip(other, expected, strict=True))
    # An image has its crop whatever batch it is in.
    larger = torch.cat([x for x, _ in make(folder, batch_size=6).epoch(5)])
    assert torch.equal(larger, torch.cat([x for x, _ in expected]))


def test_an_epoch_that_was_left_does_not_show_in_the_next(folder):
    batches = make(folder, workers=2)
    expected = list(make(folder).epoch(1))
    next(iter(batches.epoch(0)))
    assert_equal(batches.epoch(1), expected)


def test_crops_are_8_to_100_percent_and_half_of_them_mirrored(tmp_path):
    """The picture's red is its column, its green its row, so that a crop shows where it comes from."""
    height, width = 60, 80
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([3 * columns, 4 * rows, 0 * rows], 2).astype(np.uint8)
    for name in ("a", "b"):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "0.png")
    batches = make(tmp_path, batch_size=2)
    crops = torch.cat([x for epoch in range(60) for x, _ in batches.epoch(epoch)]).double()
    right, down = (crops[:, 0].mean(1)[:, -4] - crops[:, 0].mean(1)[:, 3]) / 3, crops[:, 1].mean(2)
    wide, high = right.abs() * SIZE / (SIZE - 7), (down[:, -4] - down[:, 3]) / 4 * SIZE / (SIZE - 7)
    area, ratio = wide * high / (height * width), wide / high
    assert 0.06 < area.min() < 0.25 and 0.8 < area.max() < 1.1
    assert 0.6 < ratio.min() < 0.9 and 1.1 < ratio.max() < 1.6
    assert 40 < (right < 0).sum() < 80 and (high > 0).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_file_is_named(folder, workers):
    broken = folder / "train" / "bee" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match="^[^\n]*bee/3.png cannot be read as an image; it is corrupt or of a[^\n]*$"):
        list(make(folder, workers, batch_size=2).epoch(0))
    if not workers:
        with pytest.raises(UserError, match="bee/3.png cannot be read"):
            data.load("imagefolder", folder, SIZE, True).train_images[:]


def test_a_killed_worker_is_reported():
    with pytest.raises(UserError, match="^a process that decodes images has ended .*signal: Killed.*--resume"), \
            data.loss_of_workers_reported():
        raise RuntimeError("DataLoader worker (pid 27823) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="of another kind"), data.loss_of_workers_reported():
        raise RuntimeError("of another kind")


def test_many_images_stay_in_their_files(folder, monkeypatch):
    assert isinstance(data.load("imagefolder", folder, SIZE).train_images, torch.Tensor)
    monkeypatch.setattr(image_folder, "IN_MEMORY", 20 * 3 * SIZE**2 - 1)
    assert isinstance(data.load("imagefolder", folder, SIZE).train_images, ImageFiles)
    assert isinstance(data.load("imagefolder", folder, SIZE, False).train_images, torch.Tensor)
    with pytest.raises(UserError, match="one size for all: give --image-size"):
        data.load("imagefolder", folder)


def test_sizes_are_checked_as_in_memory(folder):
    with pytest.raises(UserError, match="a batch of 15 is larger than the 14 training images"):
        make(folder, batch_size=15)
    with pytest.raises(UserError, match="3 processes cannot share a batch of 4 equally"):
        make(folder, part=(0, 3))


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(12), raising=False)
    assert default_workers() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert default_workers() == 1


def test_crops_need_torchvision(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.transforms", None)
    with pytest.raises(UserError, match="needs torchvision"):
        streamed.random_crop(8)
