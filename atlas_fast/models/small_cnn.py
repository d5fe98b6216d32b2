"""The paper's 4-layer CNN for MNIST: two convolutions and two fully connected layers.

The paper does not give the widths. Chosen: the MNIST network of Wong et al. 2020 ("Fast is better than free") at
twice its widths, conv 4x4 stride 2 padding 1 with 32 channels - ReLU - conv 4x4 stride 2 padding 1 with 64 - ReLU -
fc 128 - ReLU - fc: 436,202 weights at 28x28. At their widths (16, 32, fc 100) one-step ATLAS was at 98.4% clean and
88% robust accuracy on the validation images after 21 of 30 epochs, where that run was broken off. Milliseconds of a
one-step ATLAS step of 128 images in plain PyTorch on two busy CPU cores: 57 at their widths, 94 to 139 here, 449 for
the network of Madry et al. 2018 (5x5 convolutions with 32 and 64 channels, max pooling, fc 1024). `channels` and
`hidden` change the widths.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UserError
from .layers import Channels, Normalize, he_init


class SmallCNN(nn.Module):
    """Two strided convolutions and two fully connected layers."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, channels: tuple[int, int], hidden: int,
                 normalize: Channels | None):
        super().__init__()
        side = image_size // 4
        self.normalize = Normalize(*normalize) if normalize else None
        self.conv1 = nn.Conv2d(in_channels, channels[0], 4, stride=2, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels[0], channels[1], 4, stride=2, padding=1)
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(channels[1] * side * side, hidden)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(hidden, num_classes)
        he_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.normalize is not None:
            x = self.normalize(x)
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc2(self.relu3(self.fc1(self.flatten(x))))


def small_cnn(num_classes: int = 10, in_channels: int = 1, image_size: int = 28, channels: tuple[int, int] = (32, 64),
              hidden: int = 128, normalize: Channels | None = None) -> SmallCNN:
    """Images [N,in_channels,image_size,image_size] in [0,1] -> logits [N,num_classes].

    image_size: height and width, 4 or more (8 for digits, 28 for MNIST, 32 for CIFAR); UserError below 4.
    channels, hidden: widths of the two convolutions and of the first fully connected layer.
    normalize: None, or (mean, std) per channel in [0,1] units, applied as the first layer.
    """
    if image_size < 4:
        raise UserError(f"small_cnn needs images of at least 4x4 pixels, not {image_size}x{image_size}")
    return SmallCNN(num_classes, in_channels, image_size, channels, hidden, normalize)
