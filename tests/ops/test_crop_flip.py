"""crop_flip against its definition, bit for bit, and the definition against a loop over images."""

import pytest
import torch
from backends import arranged, unchanged

from atlas_fast import ops
from atlas_fast.data import CropFlip
from atlas_fast.errors import UserError
from atlas_fast.ops import _registry

FORMATS = [torch.contiguous_format, torch.channels_last]
LAYOUTS = ["contiguous", "channels_last", "permuted", "sliced"]
SHAPES = [(5, 3, 8, 8), (4, 1, 7, 5), (3, 4, 5, 11), (2, 3, 13, 4), (1, 1, 1, 1), (1, 3, 1, 6), (2, 2, 6, 1),
          (0, 3, 4, 4), (3, 17, 3, 3)]


@pytest.fixture(autouse=True)
def has_cuda_kernel(request):
    """On a GPU its kernel is Triton's: what CUDA C++ would serve is tested as "triton-cuda"."""
    if "backend" in request.fixturenames and request.getfixturevalue("backend").name == "cuda" and (
            _registry.backends()["crop_flip"]["cuda"][0] != "CUDA C++"):
        pytest.skip("crop_flip has no CUDA C++ kernel")


def images(backend, shape, dtype=torch.uint8, layout="contiguous"):
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    x = values if dtype == torch.uint8 else values.to(dtype) / 256 + 1e-3
    return arranged(x.to(backend.device), layout)


def assert_is_the_definition(x, rng, padding=4, flip=True, index=None, memory_format=torch.contiguous_format, offset=0):
    with unchanged(x, rng):
        out = ops.crop_flip(x, rng, padding, flip, index, memory_format, sample_offset=offset)
    expected = ops.crop_flip_reference(x, rng, padding, flip, index, memory_format == torch.channels_last,
                                       sample_offset=offset)
    assert out.dtype == expected.dtype and out.stride() == expected.stride()
    assert out.is_contiguous(memory_format=memory_format) and torch.equal(out, expected)
    return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_and_types(backend, shape, dtype):
    for padding in (0, 1, 4):
        for flip in (True, False):
            out = assert_is_the_definition(images(backend, shape, dtype), backend.rng(), padding, flip)
            assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and out.shape == shape


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_layouts_of_input_and_output(backend, channels, layout, memory_format, dtype):
    x = images(backend, (6, channels, 9, 12), dtype, layout)
    for padding in (0, 2):
        assert_is_the_definition(x, backend.rng(), padding, True, None, memory_format)


def test_more_than_one_piece_of_a_sample(backend):
    x = images(backend, (2, 3, 31, 37))
    for memory_format in FORMATS:
        assert_is_the_definition(x, backend.rng(), 4, True, None, memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_index(backend, dtype, memory_format):
    x = images(backend, (11, 3, 6, 5), dtype)
    for chosen in ([10, 0, 3, 3, 3, 7], [], list(range(11)), [4]):
        index = torch.tensor(chosen, dtype=torch.int64, device=x.device)
        out = assert_is_the_definition(x, backend.rng(), 2, True, index, memory_format)
        assert torch.equal(out, ops.crop_flip(x[index], backend.rng(), 2))  # random numbers belong to places
    strided = torch.arange(11, device=x.device)[::3]
    assert_is_the_definition(x, backend.rng(), 2, True, strided)


def test_an_index_out_of_range(backend):
    x = images(backend, (3, 1, 2, 2))
    for wrong in (3, -1, 2**40):
        index = torch.tensor([1, wrong, 2], device=x.device)
        if backend.device == "cuda" and backend.name == "reference":
            return  # PyTorch's assertion would end the device's context
        if "triton" in backend.name:
            out = ops.crop_flip(x, None, 0, False, index)
            assert out[1].isnan().all() and torch.equal(out[::2], x[1:].float() / 255)
        else:
            with pytest.raises((RuntimeError, IndexError), match="out of range|outside of 0..2"):
                ops.crop_flip(x, None, 0, False, index)


def test_every_byte_is_divided_by_255(backend):
    """The quotient as the CPU rounds it, on every backend."""
    x = torch.arange(256, dtype=torch.uint8, device=backend.device).view(1, 1, 16, 16)
    expected = torch.arange(256).view(1, 1, 16, 16).float() / 255
    for layout in LAYOUTS:
        for memory_format in FORMATS:
            out = ops.crop_flip(arranged(x, layout), None, 0, False, memory_format=memory_format)
            assert torch.equal(out.cpu(), expected)
    assert torch.equal(ops.crop_flip(x.expand(2, 3, 16, 16), None, 0, False).cpu(), expected.expand(2, 3, 16, 16))
    reciprocal = torch.arange(256).float() * torch.tensor(1 / 255)
    assert not torch.equal(reciprocal, expected.flatten())  # what it must not be


def naive(x, padding, flip, rng, offset=0):
    """One image after the other: pad, cut, mirror."""
    down, right, mirror = CropFlip(padding, flip).offsets(offset + len(x), rng)
    out = torch.empty(x.shape, device=x.device)
    for i, image in enumerate(x.float() / 255):
        padded = torch.nn.functional.pad(image, (padding,) * 4)
        top, left = down[offset + i].item(), right[offset + i].item()
        cut = padded[:, top:top + x.shape[2], left:left + x.shape[3]]
        out[i] = cut.flip(-1) if mirror[offset + i] else cut
    return out


def test_the_definition_is_the_loop_over_images():
    x = torch.randint(256, (40, 3, 6, 9), dtype=torch.uint8)
    rng = ops.make_rng(2**63 + 5, 7)
    for padding, flip in ((0, True), (1, False), (4, True), (20, True)):
        assert torch.equal(ops.crop_flip_reference(x, rng, padding, flip), naive(x, padding, flip, rng))
    assert torch.equal(ops.crop_flip_reference(x, rng, 4, True, sample_offset=3), naive(x, 4, True, rng, 3))


def test_padding_wider_than_the_image(backend):
    x = images(backend, (backend.fewer(32), 2, 3, 4))
    for padding in (3, 4, 9):
        for memory_format in FORMATS:
            out = assert_is_the_definition(x, backend.rng(), padding, True, None, memory_format)
    assert (out.flatten(1) == 0).all(1).any()  # some images are gone


def test_random_numbers_belong_to_samples(backend):
    x, rng = images(backend, (8, 3, 8, 8)), backend.rng()
    whole = ops.crop_flip(x, rng)
    assert torch.equal(whole, ops.crop_flip(x, rng)) and torch.equal(whole[2:5], ops.crop_flip(x[2:5], rng,
                                                                                               sample_offset=2))
    assert_is_the_definition(x, rng, offset=2**32 - 3)
    for other in (backend.rng(step=4), backend.rng(seed=1)):
        assert not torch.equal(whole, ops.crop_flip(x, other))
    torch.manual_seed(0)
    first = ops.crop_flip(x, None)
    assert not torch.equal(first, ops.crop_flip(x, None))
    torch.manual_seed(0)
    assert torch.equal(first, ops.crop_flip(x, None))


def test_without_padding_and_flip_nothing_is_random(backend):
    x = images(backend, (4, 3, 6, 5))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for rng in (None, backend.rng()):
        assert torch.equal(ops.crop_flip(x, rng, 0, False).cpu(), x.cpu().float() / 255)
    assert torch.equal(torch.get_rng_state(), before)


def test_values_that_are_no_images_pass_through(backend):
    x = torch.tensor([float("nan"), float("inf"), -0.0, 7.5], device=backend.device).view(1, 1, 2, 2)
    assert torch.equal(ops.crop_flip(x, None, 0, False).view(torch.int32), x.view(torch.int32))


def test_the_result_needs_no_gradient(backend):
    x = images(backend, (2, 1, 4, 4), torch.float32).requires_grad_()
    assert not ops.crop_flip(x, backend.rng()).requires_grad


def wrong_uses():
    x, rng = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ops.make_rng(0)
    index = torch.tensor([0])
    return {
        "uint8, float32 or float64 images": lambda: ops.crop_flip(x.bfloat16(), rng),
        r"float64 images \[N, C, H, W\], got torch.uint8 \[3, 4, 4\]": lambda: ops.crop_flip(x[0], rng),
        "padding must be an integer in 0..65535, got -1": lambda: ops.crop_flip(x, rng, -1),
        "padding must be .* got 1.5": lambda: ops.crop_flip(x, rng, 1.5),
        "padding must be .* got 65536": lambda: ops.crop_flip(x, rng, 2**16),
        "contiguous_format or channels_last, got torch.preserve": lambda: ops.crop_flip(
            x, rng, memory_format=torch.preserve_format),
        r"index must be an int64 tensor \[B\] on cpu, got torch.int32": lambda: ops.crop_flip(
            x, rng, index=index.int()),
        r"index must be .* \[1, 1\]": lambda: ops.crop_flip(x, rng, index=index[None]),
        "on meta": lambda: ops.crop_flip(x, rng, index=index.to("meta")),
        "rng must be an int64 tensor": lambda: ops.crop_flip(x, torch.zeros(2)),
    }


@pytest.mark.parametrize("message", wrong_uses())
def test_wrong_use(message):
    with pytest.raises(UserError, match=message):
        wrong_uses()[message]()
