"""ResNet-18 with pre-activation (He et al. 2016b) for small images: no initial pooling, four groups of two blocks."""

from __future__ import annotations

import torch
from torch import nn

from .layers import Channels, Normalize, he_init
from .wide_resnet import Block


class PreActResNet18(nn.Module):
    """conv3x3-64, four groups of two blocks (64, 128, 256, 512 channels), BN-ReLU, mean over the image, linear.

    As in Wong et al. 2020, with the final BN-ReLU that He et al. 2016b have."""

    def __init__(self, num_classes: int, in_channels: int, normalize: Channels | None):
        super().__init__()
        channels = (64, 64, 128, 256, 512)
        self.normalize = Normalize(*normalize) if normalize else None
        self.conv = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential(*(
            Block(channels[g] if b == 0 else channels[g + 1], channels[g + 1], stride=2 if g > 0 and b == 0 else 1)
            for g in range(4) for b in range(2)))
        self.bn = nn.BatchNorm2d(channels[-1])
        self.relu = nn.ReLU()
        self.fc = nn.Linear(channels[-1], num_classes)
        he_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.normalize is not None:
            x = self.normalize(x)
        x = self.relu(self.bn(self.groups(self.conv(x))))
        return self.fc(x.mean((2, 3)))


def preact_resnet18(num_classes: int = 10, in_channels: int = 3, image_size: int = 32,
                    normalize: Channels | None = None) -> PreActResNet18:
    """Images [N,in_channels,H,W] in [0,1] -> logits [N,num_classes]; any image_size from 8 up.

    normalize: None, or (mean, std) per channel in [0,1] units, applied as the first layer.
    """
    return PreActResNet18(num_classes, in_channels, normalize)
