"""3x3 convolutions by Winograd's algorithm, their input and weight gradients: against PyTorch's direct ones."""

import torch

from atlas_fast import ops
from bench.cases import benchmark_test

LAYERS = {  # name: (images, channels, size), as many filters as channels
    "wide 16x128x32x32": (16, 128, 32), "wide 16x256x16x16": (16, 256, 16), "wide 16x512x8x8": (16, 512, 8),
    "narrow 16x32x32x32": (16, 32, 32), "narrow 64x64x32x32": (64, 64, 32), "one 1x128x32x32": (1, 128, 32),
    "resnet 8x128x28x28": (8, 128, 28), "resnet 8x512x7x7": (8, 512, 7),
}
SIZES = tuple(f"{name}, {operation}" for name in LAYERS for operation in ("forward", "input gradient",
                                                                          "weight gradient"))
aten = torch.ops.aten


def case(size, device):
    name, operation = size.rsplit(", ", 1)
    batch, channels, pixels = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(batch, channels, pixels, pixels, generator=generator).to(device) for _ in range(2))
    weight = torch.randn(channels, channels, 3, 3, generator=generator).to(device)

    def gradient(*mask):
        return lambda: aten.convolution_backward(g, x, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, mask)

    return {
        "forward": {"atlas_fast": lambda: ops.winograd_convolution(x, weight),
                    "PyTorch": lambda: torch.conv2d(x, weight, padding=1)},
        "input gradient": {"atlas_fast": lambda: ops.winograd_convolution(g, weight, adjoint=True),
                           "PyTorch": gradient(True, False, False)},
        "weight gradient": {"atlas_fast": lambda: ops.winograd_weight_gradient(x, g),
                            "PyTorch": gradient(False, True, False)},
    }[operation]


test_winograd_convolution = benchmark_test(case, SIZES)
