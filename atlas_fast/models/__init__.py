"""Networks: plain PyTorch modules, traceable by torch.fx, images [N,C,H,W] in [0,1] -> logits [N,classes]."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from .. import named
from ..errors import UserError
from ..ops._arguments import whole
from . import zoo
from .layers import Normalize
from .preact_resnet18 import preact_resnet18
from .small_cnn import small_cnn
from .wide_resnet import wide_resnet

__all__ = ["Normalize", "create", "preact_resnet18", "small_cnn", "wide_resnet"]

NAMES = ("small_cnn", "preact_resnet18", "wrn-28-8", "wrn-D-W", "timm:NAME", "torchvision:NAME", "module:function")


def create(name: str, num_classes: int, in_channels: int = 3, image_size: int = 32, **kwargs: Any) -> nn.Module:
    """The network of this name: small_cnn, preact_resnet18, wrn-D-W (depth D = 6n+4, width W), e.g. wrn-28-8,
    timm:NAME or torchvision:NAME (untrained), or module:function, the user's own.

    num_classes, in_channels, image_size (height = width in pixels) describe the data; module:function is called with
    these three by name and returns an nn.Module. kwargs: normalize=(mean, std), of this package's networks alone.
    UserError: unknown name, or a network that cannot be built.
    """
    arguments = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    for what, number in arguments.items():
        if isinstance(number, bool) or not whole(number, 1):
            raise UserError(f"{what} must be a whole number of at least 1, got {number!r}")
    try:
        return _create(name, {**arguments, **kwargs})
    except (RuntimeError, MemoryError) as error:  # of PyTorch's allocator
        raise UserError(f"the model {name} cannot be built for {num_classes} classes and images of {in_channels} x "
                        f"{image_size} x {image_size} ({str(error).splitlines()[0]})") from error


def _create(name: str, arguments: dict) -> nn.Module:
    source, _, rest = name.partition(":")
    if source == "timm":
        return zoo.from_timm(rest, **arguments)
    if source == "torchvision":
        return zoo.from_torchvision(rest, **arguments)
    if named.is_own(name):
        return named.make(name, "model", nn.Module, **arguments)
    if name == "small_cnn":
        return small_cnn(**arguments)
    if name == "preact_resnet18":
        return preact_resnet18(**arguments)
    if match := re.fullmatch(r"wrn-(\d{1,4})-(\d{1,4})", name):
        return wide_resnet(depth=int(match[1]), width=int(match[2]), **arguments)
    raise UserError(f"no model is called {name!r}; models: {', '.join(NAMES)}")
