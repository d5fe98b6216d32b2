"""A batch from a resident data set of bytes, augmented and as floats. PyTorch's version is given its random numbers."""

import torch

from atlas_fast import ops
from bench.cases import IMAGES, benchmark_test

SIZES = tuple(size for size in IMAGES if "imagenet" not in size)
PADDING, RESIDENT = 4, 2000


def plain(data, index, down, right, mirror, layout):
    """Gather, divide, pad, and gather the shifted pixels."""
    x = data[index].float() / 255
    n, c, h, w = x.shape
    rows = torch.arange(h, device=x.device) + down[:, None]
    columns = torch.arange(w, device=x.device).expand(n, w)
    columns = torch.where(mirror[:, None], w - 1 - columns, columns) + right[:, None]
    padded = torch.nn.functional.pad(x, (PADDING,) * 4)
    sample = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(c, device=x.device)[None, :, None, None]
    image = padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return image.contiguous(memory_format=layout)


def case(size, device):
    (n, *image), layout = IMAGES[size]
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(256, (RESIDENT, *image), dtype=torch.uint8, generator=generator).to(device)
    index = torch.randperm(RESIDENT, generator=generator)[:n].to(device)
    down, right = torch.randint(2 * PADDING + 1, (2, n), generator=generator).to(device)
    mirror = torch.randint(2, (n,), generator=generator).bool().to(device)
    rng = ops.make_rng(0, 0, device)
    return {"atlas_fast": lambda: ops.crop_flip(data, rng, PADDING, index=index, memory_format=layout),
            "PyTorch": lambda: plain(data, index, down, right, mirror, layout)}


test_crop_flip = benchmark_test(case, SIZES)
