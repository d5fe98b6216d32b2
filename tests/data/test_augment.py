import pytest
import torch

from atlas_fast import ops
from atlas_fast.data import CropFlip


def naive(x, crop, rng):
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    out = torch.empty_like(x)
    for i, (down, right, mirror) in enumerate(zip(*(t.tolist() for t in crop.offsets(len(x), rng)), strict=True)):
        padded = torch.zeros(x.shape[1], x.shape[2] + 2 * crop.padding, x.shape[3] + 2 * crop.padding, dtype=x.dtype)
        padded[:, crop.padding:crop.padding + x.shape[2], crop.padding:crop.padding + x.shape[3]] = x[i]
        image = padded[:, down:down + x.shape[2], right:right + x.shape[3]]
        out[i] = image.flip(-1) if mirror else image
    return out


@pytest.mark.parametrize("shape", [(7, 3, 32, 32), (5, 1, 8, 6), (0, 3, 4, 4), (1, 2, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("flip", [True, False])
def test_equals_the_loop_over_images(shape, dtype, flip):
    x = torch.randint(0, 256, shape).to(dtype)
    crop, rng = CropFlip(padding=3, flip=flip), ops.make_rng(5, 2)
    assert torch.equal(crop(x, rng), naive(x, crop, rng))


def test_keeps_channels_last_and_its_input():
    x = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    out = CropFlip()(x, ops.make_rng(1))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)
    assert torch.equal(out, CropFlip()(x.contiguous(), ops.make_rng(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_writes_the_layout_that_is_asked_for(dtype):
    x, crop, rng = torch.randint(256, (4, 3, 8, 6)).to(dtype), CropFlip(), ops.make_rng(1)
    for source in (x, x.contiguous(memory_format=torch.channels_last)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            out = crop(source, rng, memory_format=memory_format)
            assert out.dtype == torch.float32 and out.is_contiguous(memory_format=memory_format)
            assert torch.equal(out, crop(x, rng))


def test_depends_on_the_rng_alone():
    x, crop = torch.rand(16, 3, 8, 8), CropFlip()
    first = crop(x, ops.make_rng(1, 0))
    torch.manual_seed(0)
    assert torch.equal(first, crop(x, ops.make_rng(1, 0)))
    assert not torch.equal(first, crop(x, ops.make_rng(1, 1)))
    assert not torch.equal(first, crop(x, ops.make_rng(2, 0)))


def test_offsets_are_uniform():
    down, right, mirror = CropFlip(padding=4).offsets(9000, ops.make_rng(0))
    for shift in (down, right):
        counts = torch.bincount(shift, minlength=9)
        assert len(counts) == 9
        assert ((counts - 1000).abs() < 5 * 1000 ** 0.5).all()
    assert abs(mirror.double().mean() - 0.5) < 5 * 0.5 / 9000 ** 0.5
