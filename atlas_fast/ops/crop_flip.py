"""A random crop of images padded with zeros and a random horizontal flip (He et al. 2016), bytes to [0, 1] on the way:

    out[i, c, r, q] = image[c, r + down - padding, q' + right - padding],   q' = q, or W - 1 - q where mirrored,

and 0 outside of the image. Words 0, 1 and 2 of sample i's Philox stream give down and right, uniform in 0..2 padding,
and whether to mirror. The image is x[i], or x[index[i]]: one pass gathers a batch from a resident data set, augments
it and writes it as floats in the layout that the network wants.
"""

import torch

from ..errors import UserError
from . import rng as _rng
from ._arguments import check_tensors
from ._registry import define


def offsets(bits: torch.Tensor, padding: int, flip: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Down and right shifts in 0..2*padding and whether to mirror: int64, int64, bool, each [n]; bits: words [n, 3]."""
    span = 2 * padding + 1
    # bits is in [0, 2^32): the high word of bits*span is uniform in 0..span-1 to 2^-32 and needs no division.
    down, right = (bits[:, 0] * span) >> 32, (bits[:, 1] * span) >> 32
    mirror = (bits[:, 2] >> 31).bool() if flip else torch.zeros_like(bits[:, 2], dtype=torch.bool)
    return down, right, mirror


def crop_flip_reference(x, rng, padding=4, flip=True, index=None, channels_last=False, purpose=_rng.AUGMENT,
                        sample_offset=0):
    """The definition."""
    x = x if index is None else x.index_select(0, index)
    n, c, h, w = x.shape
    if rng is None:
        down, right, mirror = offsets(torch.zeros(n, 3, dtype=torch.int64, device=x.device), padding, flip)
    else:
        down, right, mirror = offsets(_rng.words_reference(rng, n, 3, purpose, sample_offset), padding, flip)
    rows = torch.arange(h, device=x.device) + down[:, None]
    columns = torch.arange(w, device=x.device).expand(n, w)
    columns = torch.where(mirror[:, None], w - 1 - columns, columns) + right[:, None]
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    sample = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(c, device=x.device)[None, :, None, None]
    image = padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return _fake(x, rng, padding, flip, None, channels_last, purpose, sample_offset).copy_(_to_float(image))


def _to_float(image):
    if image.dtype != torch.uint8:
        return image
    # By a tensor on the device: on CUDA PyTorch multiplies by the reciprocal of a number, which is not the quotient.
    return image.float() / torch.full((), 255.0, device=image.device)


def _fake(x, rng, padding, flip, index, channels_last, purpose, sample_offset):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    n = len(x) if index is None else len(index)
    return torch.empty((n, *x.shape[1:]), dtype=dtype, device=x.device, memory_format=memory_format)


_op = define("crop_flip",
             "(Tensor x, Tensor? rng, int padding, bool flip, Tensor? index, bool channels_last, int purpose, "
             "int sample_offset) -> Tensor", crop_flip_reference, _fake)


def crop_flip(x: torch.Tensor, rng: torch.Tensor | None, padding: int = 4, flip: bool = True,
              index: torch.Tensor | None = None, memory_format: torch.memory_format = torch.contiguous_format,
              purpose: int = _rng.AUGMENT, sample_offset: int = 0) -> torch.Tensor:
    """float32 [N, C, H, W] in `memory_format` (contiguous or channels-last), no gradient; float64 for float64.

    x: images [N, C, H, W], uint8 (divided by 255) or float32 or float64 (as they are), in any layout. rng: int64 [2]
    (seed, step); None draws a seed from torch's default generator. padding: pixels of zeros on every side; flip:
    mirror half of the images; with padding 0 and no flip nothing is random, and this is a gather and conversion.
    index: int64 [B] on x's device: sample i of the batch is x[index[i]], its random numbers those of sample i. An
    index out of range is an error on a CPU and NaN on a GPU, which cannot raise without waiting.
    purpose: fourth counter word; sample_offset: global index of the first sample.
    Raises UserError for a wrong dtype, shape, layout or device.
    """
    check_tensors("crop_flip", x, *(() if index is None else (index,)))
    if x.dtype not in (torch.uint8, torch.float32, torch.float64) or x.dim() != 4:
        raise UserError(f"crop_flip needs uint8, float32 or float64 images [N, C, H, W], got {x.dtype} {list(x.shape)}")
    if isinstance(padding, bool) or not isinstance(padding, int) or not 0 <= padding < 2**16:
        raise UserError(f"padding must be an integer in 0..{2**16 - 1}, got {padding!r}")
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise UserError(f"crop_flip writes contiguous_format or channels_last, got {memory_format}")
    if index is not None:
        if index.dtype != torch.int64 or index.dim() != 1 or index.device != x.device:
            raise UserError(f"index must be an int64 tensor [B] on {x.device}, got {index.dtype} {list(index.shape)} "
                            f"on {index.device}")
        index = index.contiguous()
    _rng.check_counter(purpose, sample_offset)
    rng = _rng.resolve_rng(rng, x.device) if padding or flip else None
    return _op(x.detach(), rng, padding, flip, index, memory_format == torch.channels_last, purpose, sample_offset)
