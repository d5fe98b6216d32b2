"""What the Triton kernels share: scalars, memory layouts, Philox words in memory order, launching."""

import torch
import triton
import triton.language as tl

from .._arguments import compute_dtype

INT32_LIMIT = 2**31 - 2**16  # offsets of the last, partly masked program must fit too
QUADS_PER_PROGRAM = 256
NOISE_UNIT = tl.constexpr(2.0**-23)


def number_and_pointer(value: float, tensor: torch.Tensor | None, x: torch.Tensor) -> tuple[float, torch.Tensor | None]:
    """(number, device scalar or None) whose product is value * tensor in the computing precision of x.

    Triton passes a Python float as float32. For float64 images the number therefore travels in a device scalar.
    """
    if compute_dtype(x.dtype) == torch.float32:
        return float(value), tensor
    if tensor is None:
        return 1.0, torch.full((), value, dtype=torch.float64, device=x.device)
    return 1.0, tensor.to(torch.float64) * value


def like(tensor: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
    """`tensor` with the memory order of `layout` (same shape): itself where it has it already, else a copy."""
    same = all(a == b for a, b, size in zip(tensor.stride(), layout.stride(), layout.shape, strict=True) if size > 1)
    return tensor if same else torch.empty_like(layout).copy_(tensor)


def interleaved_channels(x: torch.Tensor) -> int | None:
    """How many channels alternate in memory: 1 for a contiguous x, C for a channels-last one, None for other orders."""
    if x.is_contiguous():
        return 1
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.dim() in formats and x.is_contiguous(memory_format=formats[x.dim()]):
        return x.shape[1]
    return None


def int32(value: int) -> int:
    """The lower 32 bits of `value` as a signed number, so that every offset has one argument type."""
    return ((value + 2**31) & 0xFFFFFFFF) - 2**31


def launch(kernel, programs: int, on: torch.Tensor, *arguments, **options) -> None:
    """Run `programs` programs on the device of `on`. Products and sums are rounded one by one, as on the CPU."""
    if programs == 0:
        return
    if on.is_cuda:
        with torch.cuda.device(on.device):
            kernel[(programs,)](*arguments, enable_fp_fusion=False, **options)
    else:
        kernel[(programs,)](*arguments, enable_fp_fusion=False, **options)


def launch_quads(kernel, x: torch.Tensor, samples: int, n: int, channels: int, rng: torch.Tensor, purpose: int,
                 sample_offset: int, *arguments) -> None:
    """Launch a kernel that calls `quads`: one lane per four neighbouring elements of a sample."""
    programs = triton.cdiv(samples * triton.cdiv(n, 4), QUADS_PER_PROGRAM)
    spatial = n // max(channels, 1)
    launch(kernel, programs, x, *arguments, rng.contiguous(), samples, n, spatial, int32(sample_offset), int32(purpose),
           CHANNELS=channels, ALIGNED=spatial % 4 == 0, WIDE=samples * n >= INT32_LIMIT, BLOCK=QUADS_PER_PROGRAM)


@triton.jit
def scalar(number, pointer):
    """number * *pointer, or the number where there is no pointer."""
    if pointer is None:
        return number
    else:
        return number * tl.load(pointer)


@triton.jit
def philox(rng, group, sample, purpose):
    """The four Philox words of a block of groups; sample and purpose may be narrower than group."""
    zero = (group * 0).to(tl.uint32)
    step = tl.load(rng + 1).to(tl.uint32)
    return tl.philox(tl.load(rng), zero + group.to(tl.uint32), zero + sample.to(tl.uint32), zero + step,
                     zero + purpose.to(tl.uint32))


@triton.jit
def four(a, b, c, d, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] that holds a, b, c, d alternating along its rows."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [ROWS, COLUMNS])


@triton.jit
def quads(rng, samples, n, spatial, sample_offset, purpose, CHANNELS: tl.constexpr, ALIGNED: tl.constexpr,
          WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """(words, memory offsets, mask), each [BLOCK, 4]: a row holds the elements of one Philox counter.

    Memory is [sample, element] for CHANNELS = 1, [sample, position, channel] for more. Where counters do not straddle
    channels (ALIGNED), neighbouring lanes take neighbouring channels, so that a program's memory is one piece.
    """
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    index = program * BLOCK + tl.arange(0, BLOCK)
    per_sample = (n + 3) // 4
    sample, group = index // per_sample, index % per_sample
    if CHANNELS > 1 and ALIGNED:
        group = (group % CHANNELS) * (spatial // 4) + group // CHANNELS
    w0, w1, w2, w3 = philox(rng, group, sample + sample_offset, purpose)
    element = group[:, None] * 4 + tl.arange(0, 4)[None, :]
    mask = (element < n) & (sample[:, None] < samples)
    offset = element
    if CHANNELS > 1:
        offset = (element % spatial) * CHANNELS + element // spatial
    return four(w0, w1, w2, w3, BLOCK, 4), sample[:, None] * n + offset, mask


@triton.jit
def symmetric_uniform(words):
    """2u - 1 in [-1, 1) for the 24-bit uniform u of each word: exact in float32."""
    return ((words >> 8).to(tl.int32) - 8388608).to(tl.float32) * NOISE_UNIT


@triton.jit
def clamp(value, low, high):
    """NaN passes through, as in torch.clamp."""
    value = tl.where(value < low, low, value)
    return tl.where(value > high, high, value)


@triton.jit
def compute(value):
    """bfloat16 as float32; float32 and float64 as they are."""
    if value.dtype == tl.bfloat16:
        return value.to(tl.float32)
    else:
        return value
