"""ReLU and max pooling: the forward pass, the adjoint of x, the tangent of y; against PyTorch's ReLU and pooling."""

import torch

from atlas_fast import ops
from bench.cases import benchmark_test

WINDOWS = {  # name: (shape of x, kernel, stride, padding, memory format)
    "resnet stem 16x64x112x112": ((16, 64, 112, 112), (3, 3), (2, 2), (1, 1), torch.contiguous_format),
    "resnet stem 16x64x112x112 channels-last": ((16, 64, 112, 112), (3, 3), (2, 2), (1, 1), torch.channels_last),
    "cnn 128x32x28x28": ((128, 32, 28, 28), (2, 2), (2, 2), (0, 0), torch.contiguous_format),
    "cnn 128x64x14x14": ((128, 64, 14, 14), (2, 2), (2, 2), (0, 0), torch.contiguous_format),
    "vgg 16x128x32x32": ((16, 128, 32, 32), (2, 2), (2, 2), (0, 0), torch.contiguous_format),
    "vgg 16x128x32x32 channels-last": ((16, 128, 32, 32), (2, 2), (2, 2), (0, 0), torch.channels_last),
}
SIZES = tuple(f"{name}, {sweep}" for name in WINDOWS for sweep in ("forward", "backward", "tangent"))
aten = torch.ops.aten


def case(size, device):
    name, sweep = size.rsplit(", ", 1)
    shape, *window, layout = WINDOWS[name]
    kernel, stride, padding = window
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(shape, generator=generator).to(device, memory_format=layout) for _ in range(2))
    rectified = x.relu()
    y, codes = ops.relu_max_pool(x, *window)
    indices = aten.max_pool2d_with_indices(rectified, *window)[1]
    g = torch.randn(y.shape, generator=generator).to(device, memory_format=layout)

    def backward():
        dx = aten.max_pool2d_with_indices_backward(g, rectified, *window, (1, 1), False, indices)
        return aten.threshold_backward(dx, rectified, 0)

    def tangent():
        chosen = aten.threshold_backward(t, rectified, 0).flatten(-2).gather(-1, indices.flatten(-2))
        return chosen.view(indices.shape)

    return {
        "forward": {"atlas_fast": lambda: ops.relu_max_pool(x, *window),
                    "PyTorch": lambda: aten.max_pool2d_with_indices(rectified.relu_(), *window)},  # in place
        "backward": {"atlas_fast": lambda: ops.relu_max_pool_backward(g, codes, shape[2:], *window),
                     "PyTorch": backward},
        "tangent": {"atlas_fast": lambda: ops.relu_max_pool_tangent(t, codes, *window), "PyTorch": tangent},
    }[sweep]


test_relu_max_pool = benchmark_test(case, SIZES)
