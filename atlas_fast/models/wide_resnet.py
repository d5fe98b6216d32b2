"""Wide residual network with pre-activation (Zagoruyko & Komodakis 2016); the paper's 28-8 is the default."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UserError
from .layers import Channels, Normalize, he_init


class Block(nn.Module):
    """BN-ReLU-conv3x3-BN-ReLU-conv3x3 plus the input; a 1x1 convolution of the activated input on a new shape."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.relu1(self.bn1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        return identity + self.conv2(self.relu2(self.bn2(self.conv1(activated))))


class WideResNet(nn.Module):
    """Three groups of (depth-4)/6 blocks with 16, 32 and 64 times `width` channels, mean over the image, linear."""

    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int, normalize: Channels | None):
        super().__init__()
        blocks = (depth - 4) // 6
        channels = (16, 16 * width, 32 * width, 64 * width)
        self.normalize = Normalize(*normalize) if normalize else None
        self.conv = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential(*(
            Block(channels[g] if b == 0 else channels[g + 1], channels[g + 1], stride=2 if g > 0 and b == 0 else 1)
            for g in range(3) for b in range(blocks)))
        self.bn = nn.BatchNorm2d(channels[3])
        self.relu = nn.ReLU()
        self.fc = nn.Linear(channels[3], num_classes)
        he_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.normalize is not None:
            x = self.normalize(x)
        x = self.relu(self.bn(self.groups(self.conv(x))))
        return self.fc(x.mean((2, 3)))


def wide_resnet(depth: int = 28, width: int = 8, num_classes: int = 10, in_channels: int = 3, image_size: int = 32,
                normalize: Channels | None = None) -> WideResNet:
    """WRN-depth-width without dropout: images [N,in_channels,H,W] in [0,1] -> logits [N,num_classes].

    depth: 6n+4 (10, 16, 22, 28, 34, ...), else UserError. width: the widening factor.
    image_size: any from 4 up; the network does not depend on it (the head takes the mean over the image).
    normalize: None, or (mean, std) per channel in [0,1] units, applied as the first layer.
    """
    if depth < 10 or (depth - 4) % 6:
        raise UserError(f"a wide ResNet has depth 6n+4 (10, 16, 22, 28, 34, 40, ...), not {depth}")
    if width < 1:
        raise UserError(f"the width of a wide ResNet is a whole number from 1 up, not {width}")
    return WideResNet(depth, width, num_classes, in_channels, normalize)
