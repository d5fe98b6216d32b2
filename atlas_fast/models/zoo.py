"""Classification networks of timm and torchvision by name, untrained: timm:NAME, torchvision:NAME."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import UserError


def from_timm(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """timm's network of this name. One that is built for one image size (a ViT) is built for image_size.

    UserError: timm is missing, knows no such name, or cannot build it for these images."""
    try:
        import timm
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise UserError("--model timm:NAME needs timm: pip install timm") from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5] if name else []
        raise UserError(f"timm {timm.__version__} has no model {name!r}; {_examples(near)}")
    default = get_pretrained_cfg(name)
    size = {"img_size": image_size} if default is not None and default.fixed_input_size else {}
    return _build(f"timm:{name}", image_size, lambda: timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **size))


def from_torchvision(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """torchvision's classification network of this name, without auxiliary heads; other than 3 channels replace its
    first convolution. UserError: torchvision is missing, knows no such name, or cannot build it for these images."""
    try:
        import torchvision
    except ImportError as error:
        raise UserError("--model torchvision:NAME needs torchvision: pip install torchvision") from error
    known = torchvision.models.list_models(module=torchvision.models)  # without detection, segmentation, video
    if name not in known:
        near = [other for other in known if name and name in other][:5]
        raise UserError(f"torchvision {torchvision.__version__} has no classification model {name!r}; "
                        f"{_examples(near)}")
    options: dict[str, Any] = {"num_classes": num_classes}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    elif name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}  # with them the output in training is no tensor

    def build():
        model = torchvision.models.get_model(name, weights=None, **options)
        if in_channels != 3:
            _replace_first_convolution(model, in_channels)
        return model

    return _build(f"torchvision:{name}", image_size, build)


def _replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    """By one of in_channels and otherwise the same; torchvision's networks register the stem first."""
    path: str
    old: Any
    path, old = next((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, old.groups,
                    old.bias is not None, old.padding_mode)
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _build(name: str, image_size: int, build) -> nn.Module:
    try:
        return build()
    except Exception as error:  # hundreds of networks, each with its own checks
        raise UserError(f"{name} cannot be built for images of {image_size} pixels "
                        f"({type(error).__name__}: {error}); choose another --model") from error


def _examples(near: list[str]) -> str:
    return f"near: {', '.join(near)}" if near else "e.g. resnet18"
