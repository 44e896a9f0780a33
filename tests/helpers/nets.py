"""Classifiers for tests, hand-made with fixed weights or from timm with random ones, and an image for them."""

import numpy as np
import timm
import torch
from PIL import Image
from timm.layers import ClassifierHead
from timm.models.vgg import VGG, ConvMlp
from torch import nn

from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.preprocess import Preprocessing

LABELS = ("cat", "dog", "owl")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def make_classifier(model: nn.Module, size: tuple[int, int], normalization: dict = IMAGENET, **options) -> Classifier:
    info = CheckpointInfo("test", "0", type(model).__name__)
    return Classifier(model.eval().requires_grad_(False), LABELS, Preprocessing(size, **normalization), info, **options)


def make_timm(name: str, size: tuple[int, int], seed: int = 0, **options) -> Classifier:
    """A timm model with random weights and random norm statistics, as in a trained model."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=len(LABELS), **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    model.get_classifier().weight.data.normal_(0, 1)
    model.get_classifier().bias.data.normal_(0, 1)
    return make_classifier(model, size)


def make_tiny(method: str, side: int) -> Classifier:
    """A tiny model that a method works on, for square images."""
    if method == "attention_relevance":
        return make_timm("test_vit", (side, side), img_size=side)
    return make_timm("test_resnet", (side, side))


def make_vgg(size: tuple[int, int]) -> Classifier:
    """timm's VGG with four layers of few channels and a hidden layer of 8 instead of 4096 in its head."""
    torch.manual_seed(0)
    model = VGG([8, "M", 8, "M", 16, "M", 16, "M"], num_classes=len(LABELS))
    model.pre_logits = ConvMlp(16, 8, 7)
    model.head = ClassifierHead(8, len(LABELS))
    return make_classifier(model, size)


def make_scan(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A gray image: smooth noise below a black upper quarter."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))
    pixels[: size[0] // 4] = 0
    return Image.fromarray(pixels)


class Blocks(nn.Module):
    """Two channels, the mean of each 8 x 8 block and that minus 1; then an average and a linear layer."""

    def __init__(self):
        super().__init__()
        self.num_features = 2
        self.blocks = nn.Conv2d(3, 2, kernel_size=8, stride=8)
        self.blocks.weight.data.fill_(1 / 192)
        self.blocks.bias.data = torch.tensor([0.0, -1.0])
        self.head = nn.Linear(2, 3)
        self.head.weight.data = torch.tensor([[4.0, 0.0], [-2.0, 0.0], [3.0, 1.0]])
        self.head.bias.data = torch.tensor([10.0, 20.0, 30.0])

    def forward_features(self, pixel_values):
        return self.blocks(pixel_values)

    def forward(self, pixel_values):
        return self.head(self.forward_features(pixel_values).mean(dim=(2, 3)))


class Places(nn.Module):
    """Two channels, the mean of each quarter of 32 x 32 pixels and that minus 1; each position has its own weight."""

    def __init__(self):
        super().__init__()
        self.num_features = 2
        self.quarters = nn.Conv2d(3, 2, kernel_size=16, stride=16)
        self.quarters.weight.data.fill_(1 / 768)
        self.quarters.bias.data = torch.tensor([0.0, -1.0])
        self.head = nn.Linear(8, 3, bias=False)
        self.head.weight.data = torch.tensor([[4.0, 8, 0, -20, 0, 2, 0, 0], [1.0] * 8, [2.0] * 8])

    def forward_features(self, pixel_values):
        return self.quarters(pixel_values)

    def forward(self, pixel_values):
        return self.head(self.forward_features(pixel_values).flatten(start_dim=1))


class Unpadded(nn.Module):
    """Two convolutions and a max-pooling between them, each 3 x 3 and without padding."""

    def __init__(self):
        super().__init__()
        self.num_features = 4
        first, last = nn.Conv2d(3, 4, kernel_size=3, stride=2), nn.Conv2d(4, 4, kernel_size=3)
        self.body = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2), last)

    def forward_features(self, pixel_values):
        return self.body(pixel_values)


class EvenAttention(nn.Module):
    """Every token reads the mean of all tokens, with the fused operation or step by step."""

    def __init__(self):
        super().__init__()
        self.fused_attn = True
        self.score = nn.Parameter(torch.zeros(()))
        self.attn_drop = nn.Dropout()

    def forward(self, tokens):
        if self.fused_attn:
            return tokens.mean(dim=1, keepdim=True).expand_as(tokens)
        scores = self.score.expand(len(tokens), 1, tokens.shape[1], tokens.shape[1])
        return (self.attn_drop(scores.softmax(dim=-1)) @ tokens[:, None])[:, 0]


class TwoAttentions(nn.Module):
    """A class token of 0 and the brightness of each quarter; two attentions with skip connections; the logits are 2, -2
    and 0 times the class token.
    """

    def __init__(self):
        super().__init__()
        self.num_prefix_tokens = 1
        self.layers = nn.ModuleList([EvenAttention(), EvenAttention()])
        self.head = nn.Linear(1, 3, bias=False)
        self.head.weight.data = torch.tensor([[2.0], [-2.0], [0.0]])

    def forward_features(self, pixel_values):
        quarters = nn.functional.adaptive_avg_pool2d(pixel_values.mean(dim=1, keepdim=True), 2)
        tokens = nn.functional.pad(quarters.flatten(2).transpose(1, 2), (0, 0, 1, 0))
        for layer in self.layers:
            tokens = tokens + layer(tokens)
        return tokens

    def forward_head(self, tokens):
        return self.head(tokens[:, 0])

    def forward(self, pixel_values):
        return self.forward_head(self.forward_features(pixel_values))


class Corner(nn.Module):
    """The logits are a, -a and 0, where a is the gray value of the lower right pixel, 0 to 1."""

    def forward(self, pixel_values):
        corner = pixel_values[:, 0, -1, -1]
        return torch.stack([corner, -corner, 0 * corner], dim=1)


class Drifting(nn.Module):
    """Logits that depend a little on the size of the batch, as those of real models do in their last digits."""

    def forward(self, pixel_values):
        return pixel_values.mean(dim=(2, 3)) + 1e-6 * len(pixel_values)


class Total(nn.Module):
    """The logits are the sums of the gray values of one channel each."""

    def forward(self, pixel_values):
        return pixel_values.sum(dim=(2, 3))
