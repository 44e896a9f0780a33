"""One forward pass of a model, which answers, draws Grad-CAM and tells unusual images apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What one forward pass leaves behind.

    Attributes:
        logits: Float32 [N, classes], on the CPU.
        features: What `forward_features` returned, [N, C, h, w] for most models, on the model's device; None for a
            model that is not divided into features and head.
    """

    logits: torch.Tensor
    features: torch.Tensor | None

    def single(self, index: int) -> "ModelOutput":
        """Return the output for one of the images, with N = 1."""
        part = slice(index, index + 1)
        return ModelOutput(self.logits[part], None if self.features is None else self.features[part])


@torch.inference_mode()
def run(model: nn.Module, pixel_values: torch.Tensor) -> ModelOutput:
    """Run a model on pixel values [N, 3, H, W] of its device and type; the logits equal model(pixel_values)."""
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        return ModelOutput(model(pixel_values).float().cpu(), None)
    # What a timm model itself does, in two steps: no hook is set, and the logits are the same to the last bit.
    features = model.forward_features(pixel_values)
    return ModelOutput(model.forward_head(features).float().cpu(), features)


@torch.inference_mode()
def linear_head(model: nn.Module, images: torch.Tensor) -> nn.Linear | None:
    """Return the classifier layer if logits == linear(global average of the features), checked on `images`."""
    linear = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(linear, nn.Linear) or not hasattr(model, "forward_features"):
        return None
    features = model.forward_features(images)
    if features.ndim != 4 or features.shape[1] != linear.in_features:
        return None
    logits = model(images)
    difference = (logits - linear(features.mean(dim=(2, 3)))).abs().max()
    return linear if difference <= 1e-4 * logits.abs().max() else None


@torch.inference_mode()
def class_grids(output: ModelOutput, head: nn.Linear) -> torch.Tensor:
    """Return what each position of the feature map adds to the logits, [N, classes, h, w], for a `linear_head`."""
    height, width = output.features.shape[2:]
    return F.conv2d(output.features, head.weight[:, :, None, None]) / (height * width)


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_grids(model: nn.Module, output: ModelOutput, targets: Sequence[int]) -> torch.Tensor:
    """Return what `class_grids` returns, [N, targets, h, w], for any head: each channel times its mean gradient.

    Only the head is run again. No hook is set and no gradient stored, so many threads can use the model.
    """
    features = output.features.clone().requires_grad_()  # which were made without gradients
    logits = model.forward_head(features)
    grids = []
    for target in targets:
        gradient = torch.autograd.grad(logits[:, target].sum(), features, retain_graph=True)[0]
        grids.append((gradient.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(dim=1))
    return torch.stack(grids, dim=1)
