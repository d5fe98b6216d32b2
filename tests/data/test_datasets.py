import numpy as np
import pytest
import torch
from PIL import Image

from atlas_fast import data
from atlas_fast.data import Batches, Dataset, split_validation
from atlas_fast.errors import UserError


def test_digits_are_real_offline_and_fixed():
    digits = data.load("digits")
    assert digits.train_images.shape == (1433, 1, 8, 8) and digits.test_images.shape == (364, 1, 8, 8)
    assert digits.train_images.dtype == torch.float32 and digits.train_labels.dtype == torch.int64
    assert digits.train_images.min() == 0 and digits.train_images.max() == 1
    assert digits.test_labels[:10].tolist() == list(range(10))
    assert torch.bincount(digits.test_labels).min() >= 35


def arrays(**changes):
    rng = np.random.default_rng(0)
    parts = {"train_images": rng.integers(0, 256, (20, 6, 6), dtype=np.uint8),
             "train_labels": np.arange(20).reshape(-1, 1) % 4,
             "test_images": rng.integers(0, 256, (8, 6, 6), dtype=np.uint8),
             "test_labels": np.arange(8).reshape(-1, 1) % 4}
    parts.update(changes)
    return {key: value for key, value in parts.items() if value is not None}


@pytest.fixture
def npz(tmp_path):
    def write(**changes):
        np.savez(tmp_path / "set.npz", **arrays(**changes))
        return tmp_path / "set.npz"

    return write


def test_npz_grey_uint8(npz):
    path = npz()
    loaded = data.load("npz", path)
    assert loaded.train_images.shape == (20, 1, 6, 6) and loaded.train_images.dtype == torch.uint8
    assert loaded.num_classes == 4 and loaded.val is None and loaded.train_labels.tolist()[:5] == [0, 1, 2, 3, 0]
    assert torch.equal(data.load("npz", path.parent).test_images, loaded.test_images)


def test_npz_colour_floats_and_validation(npz):
    images = np.random.default_rng(0).random((20, 6, 6, 3))
    path = npz(train_images=images, test_images=images[:8], val_images=images[:4], val_labels=np.arange(4))
    loaded = data.load("npz", path)
    assert loaded.train_images.dtype == torch.float32
    assert loaded.train_images[1, 2, 3, 4] == np.float32(images[1, 3, 4, 2])
    assert loaded.val[0].shape == (4, 3, 6, 6)
    assert split_validation(loaded, None, 0) is loaded
    with pytest.raises(UserError, match="own 4 validation images"):
        split_validation(loaded, 5, 0)


FLOATS = np.full((20, 6, 6), 0.5)
BAD = [
    ({"train_labels": None}, "lacks train_labels"),
    ({"val_images": np.zeros((2, 6, 6), np.uint8)}, "lacks val_labels"),
    ({"train_images": np.zeros((20, 36), np.uint8)}, r"shape \[N,H,W\]"),
    ({"train_images": np.zeros((20, 3, 6, 6), np.uint8)}, r"shape \[N,H,W\]"),
    ({"train_images": np.zeros((20, 6, 5), np.uint8)}, "square"),
    ({"train_images": np.zeros((20, 6, 6), np.int64)}, "uint8"),
    ({"train_images": np.where(np.arange(36).reshape(6, 6) == 3, np.nan, FLOATS)}, "NaN"),
    ({"train_images": FLOATS * 4}, r"\[0,1\]"),
    ({"train_images": FLOATS - 1}, r"\[0,1\]"),
    ({"train_images": FLOATS}, "one type and size"),
    ({"test_images": np.zeros((8, 7, 7), np.uint8)}, "one type and size"),
    ({"train_images": np.zeros((0, 6, 6), np.uint8), "train_labels": np.zeros(0, int)}, "empty"),
    ({"train_labels": np.arange(19) % 4}, "19 labels for 20 images"),
    ({"train_labels": np.arange(20) % 4 + 0.0}, "whole numbers"),
    ({"train_labels": np.arange(20) % 4 - 1}, "label -1"),
    ({"train_labels": np.where(np.arange(20) == 7, 255, np.arange(20) % 4)}, "goes up to 255"),
    ({"test_labels": np.arange(8)}, "label 7, out of range"),
    ({"train_labels": np.zeros((20, 2), int)}, r"shape \[N\]"),
    ({"train_labels": np.zeros(20, int), "test_labels": np.zeros(8, int)}, "one class only"),
    ({"train_labels": np.array([object()] * 20)}, "cannot be read"),
]


@pytest.mark.parametrize("changes, message", BAD, ids=[m for _, m in BAD])
def test_npz_bad_content(npz, changes, message):
    with pytest.raises(UserError, match=message):
        data.load("npz", npz(**changes))


@pytest.mark.parametrize("content", [b"", b"not a zip", None], ids=["empty", "foreign", "truncated"])
def test_npz_corrupt(npz, content):
    path = npz()
    path.write_bytes(path.read_bytes()[:800] if content is None else content)
    with pytest.raises(UserError, match="cannot be read"):
        data.load("npz", path)


def test_npz_flipped_bytes(npz):
    path = npz()
    raw = bytearray(path.read_bytes())
    raw[300] ^= 255
    path.write_bytes(raw)
    with pytest.raises(UserError, match="cannot be read"):
        data.load("npz", path)


def test_npz_single_array(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(UserError, match="single array"):
        data.load("npz", tmp_path / "x.npy")


def test_npz_missing(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        data.load("npz", tmp_path / "none.npz")
    with pytest.raises(UserError, match="exactly one"):
        data.load("npz", tmp_path)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("test", 2)):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_image_folder(folder):
    loaded = data.load("imagefolder", folder)
    assert loaded.train_images.shape == (12, 3, 8, 8) and loaded.classes == ["ant", "bee"]
    assert loaded.train_labels.tolist() == [0] * 6 + [1] * 6
    expected = np.asarray(Image.open(folder / "train" / "bee" / "0.png")).transpose(2, 0, 1)
    assert np.array_equal(loaded.train_images[6].numpy(), expected)
    assert data.load("imagefolder", folder, 5).test_images.shape == (4, 3, 5, 5)


def test_image_folder_val_serves_as_test_or_validation(folder):
    (folder / "test").rename(folder / "val")
    assert data.load("imagefolder", folder).val is None
    (folder / "test").mkdir()
    (folder / "val" / "ant").rename(folder / "test" / "ant")
    loaded = data.load("imagefolder", folder)
    assert loaded.test_labels.tolist() == [0, 0] and loaded.val[1].tolist() == [1, 1]


def test_image_folder_bad(folder):
    odd = folder / "train" / "ant" / "9.png"
    Image.new("RGB", (9, 8)).save(odd)
    with pytest.raises(UserError, match="9.png is 9x8.*--image-size"):
        data.load("imagefolder", folder)
    data.load("imagefolder", folder, 8)
    odd.write_bytes(b"no image")
    with pytest.raises(UserError, match="9.png cannot be read"):
        data.load("imagefolder", folder)
    odd.unlink()
    (folder / "test" / "wasp").mkdir()
    with pytest.raises(UserError, match="'wasp'"):
        data.load("imagefolder", folder)
    with pytest.raises(UserError, match="no folder"):
        data.load("imagefolder", folder / "nothing")


def test_unknown_name_and_useless_option():
    with pytest.raises(UserError, match="no data set is called 'svhn'"):
        data.load("svhn")
    with pytest.raises(UserError, match="imagefolder"):
        data.load("digits", image_size=16)


def counting(n):
    images = torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1)
    return Dataset("x", images, torch.arange(n), images, torch.arange(n), n)


def test_split_is_random_disjoint_and_fixed_by_the_seed():
    split = split_validation(counting(100), None, 3)
    val, train = split.val[1], split.train_labels
    assert len(val) == 10 and sorted([*val.tolist(), *train.tolist()]) == list(range(100))
    assert torch.equal(val, split_validation(counting(100), None, 3).val[1])
    assert not torch.equal(val, split_validation(counting(100), None, 4).val[1])
    assert len(split_validation(counting(50_000), None, 0).val[1]) == 5000
    assert len(split_validation(counting(100), 30, 0).val[1]) == 30
    for size in (0, 100, -1):
        with pytest.raises(UserError, match="validation size"):
            split_validation(counting(100), size, 0)


def test_batches_depend_on_seed_and_epoch_alone():
    def labels(epoch, seed=0, **options):
        batches = Batches(torch.zeros(25, 1, 1, 1), torch.arange(25), 8, seed, torch.device("cpu"), **options)
        return [y.tolist() for _, y in batches.epoch(epoch)]

    first = labels(0)
    assert [len(y) for y in first] == [8, 8, 8]
    assert len({label for y in first for label in y}) == 24
    assert first == labels(0) and first != labels(1) and first != labels(0, seed=1)
    assert labels(0, max_batches=2) == first[:2]


def test_batches_keep_images_with_their_labels():
    images = torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1)
    batches = Batches(images, torch.arange(9), 4, 0, torch.device("cpu"))
    for x, y in batches.epoch(0):
        assert x.dtype == torch.uint8 and torch.equal(x.flatten().long(), y)


def test_batch_larger_than_the_set():
    with pytest.raises(UserError, match="at most 25"):
        Batches(torch.zeros(25, 1, 1, 1), torch.arange(25), 26, 0, torch.device("cpu"))


def test_real_mnist(real_data):
    mnist = data.load("mnist", real_data)
    assert mnist.train_images.shape == (60_000, 1, 28, 28) and mnist.test_images.shape == (10_000, 1, 28, 28)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9] and mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
