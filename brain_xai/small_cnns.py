"""Three small convolutional networks, registered with timm: what is gained by a large model is the difference to them.

They are trained from random weights (`--model brain_xai_deep --no-pretrained`). timm and transformers know their names
wherever `brain_xai` was imported.
"""

from typing import Any, NamedTuple

import torch
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn


class Layer(NamedTuple):
    """A convolution with batch norm and ReLU: its output channels, the side of its kernel, and its stride."""

    channels: int
    kernel: int = 3
    stride: int = 1


# One convolution that sees 15 x 15 pixels and has many channels: a vocabulary of spots and edges, without composition.
WIDE = (Layer(256, kernel=15, stride=8),)
# The same few channels everywhere, and many layers.
DEEP = tuple(Layer(48, stride=stride) for stride in (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1))
# Each level has half of the resolution and twice the channels of the one before.
PYRAMID = tuple(Layer(channels, stride=stride) for channels in (16, 32, 64, 128, 256) for stride in (2, 1))


class SmallCNN(nn.Module):
    """Convolutions one after the other, a global average and one linear layer, with the interface of timm's models.

    Args:
        layers: The convolutions. Every activation is an `nn.ReLU` module and no skip connection leads around a layer,
            so that every explanation method for convolutional networks works.
        num_classes: Number of logits.
        in_chans: Channels of the image.
        drop_rate: Dropout before the linear layer.
    """

    def __init__(self, layers: tuple[Layer, ...], num_classes: int = 4, in_chans: int = 3, drop_rate: float = 0.0):
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = layers[-1].channels
        inputs = [in_chans, *(layer.channels for layer in layers)]
        self.body = nn.Sequential(*(_block(count, layer) for count, layer in zip(inputs, layers, strict=False)))
        self.head = ClassifierHead(self.num_features, num_classes, drop_rate=drop_rate)

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer by one for other classes."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature map, [N, num_features, h, w], of images [N, in_chans, H, W]."""
        return self.body(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return the logits of a feature map, [N, classes], or with `pre_logits` its averages, [N, num_features]."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of images, [N, classes]."""
        return self.forward_head(self.forward_features(x))


def _block(inputs: int, layer: Layer) -> nn.Sequential:
    conv = nn.Conv2d(inputs, layer.channels, layer.kernel, layer.stride, padding=layer.kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(layer.channels), nn.ReLU(inplace=True))


def _settings() -> dict[str, Any]:
    """Return what timm records of a model: how images are prepared, and where its first and last layer are."""
    return {
        "url": "",
        "input_size": (3, 160, 160),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "num_classes": 4,
        "first_conv": "body.0.0",
        "classifier": "head.fc",
        "license": "mit",
    }


default_cfgs = generate_default_cfgs(
    {"brain_xai_wide": _settings(), "brain_xai_deep": _settings(), "brain_xai_pyramid": _settings()}
)
SMALL_CNNS = tuple(default_cfgs)


@register_model
def brain_xai_wide(pretrained: bool = False, **options: Any) -> SmallCNN:
    """One wide convolution, 0.2 million parameters."""
    return build_model_with_cfg(SmallCNN, "brain_xai_wide", pretrained, layers=WIDE, **options)


@register_model
def brain_xai_deep(pretrained: bool = False, **options: Any) -> SmallCNN:
    """Twelve narrow convolutions, 0.2 million parameters."""
    return build_model_with_cfg(SmallCNN, "brain_xai_deep", pretrained, layers=DEEP, **options)


@register_model
def brain_xai_pyramid(pretrained: bool = False, **options: Any) -> SmallCNN:
    """Ten convolutions in five levels, 1.2 million parameters."""
    return build_model_with_cfg(SmallCNN, "brain_xai_pyramid", pretrained, layers=PYRAMID, **options)
