"""Class-activation maps: how much each cell of a layer that still is a picture adds to the logit."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from brain_xai.classifier import Classifier
from brain_xai.methods.target_layer import TargetLayer, target_layer


def cam_unsupported(classifier: Classifier) -> str | None:
    """Return why class-activation maps do not work on this classifier, None where they do."""
    if target_layer(classifier):
        return None
    architecture = classifier.info.architecture
    return (
        f"Class-activation maps need a last layer made of cells that lie on the picture; {architecture} has none. "
        "Use occlusion, which works for every model."
    )


# Grad-CAM


def grad_cam(
    classifier: Classifier, pixel_values: torch.Tensor, target: int, progress: Callable[..., None]
) -> tuple[np.ndarray, dict]:
    """Compute the signed Grad-CAM of one class, without the rectifier of the paper, which hides what speaks against.

    Returns the attribution [H, W] in logits per cell and the settings. Where the head is an average over the cells
    and one linear layer (ResNet, EfficientNet), the cells sum to the logit less its bias.
    Paper: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
    """
    layer = target_layer(classifier)
    cells = grad_cam_cells(classifier, pixel_values, target)
    progress(1, 1)
    return _on_picture(cells, layer, pixel_values), _settings(layer)


def grad_cam_cells(classifier: Classifier, pixel_values: torch.Tensor, target: int) -> torch.Tensor:
    """Return the signed Grad-CAM of one class before it is laid on the picture, [1, 1, h, w]."""
    if linear_head(classifier):
        return _predict_with_cells(classifier, pixel_values)[1][:, target, None]
    activations, gradient = layer_gradient(classifier, pixel_values, target, target_layer(classifier))
    return (gradient.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1, keepdim=True)


def grad_cam_all_classes(
    classifier: Classifier, pixel_values: torch.Tensor
) -> tuple[torch.Tensor, np.ndarray, dict] | None:
    """Return logits [classes], the signed Grad-CAM of all classes [classes, H, W] and the settings.

    All from the one forward pass that predicts; None where the head is more than an average and a linear layer.
    """
    if linear_head(classifier) is None:
        return None
    layer = target_layer(classifier)
    logits, cells = _predict_with_cells(classifier, pixel_values)
    return logits[0], resample_to_image(cells, layer, pixel_values.shape[2:])[0].numpy(), _settings(layer)


@torch.inference_mode()
def _predict_with_cells(classifier: Classifier, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [N, classes] and what each cell adds to them, [N, classes, h, w], from one forward pass."""
    # What the model itself does, in two steps: no hook is set, and the logits are the same to the last bit.
    features = classifier.model.forward_features(pixel_values)
    logits = classifier.model.forward_head(features).float()
    weight = linear_head(classifier).weight[:, :, None, None]
    return logits, F.conv2d(features, weight) / (features.shape[2] * features.shape[3])


@lru_cache(maxsize=8)
@torch.inference_mode()
def linear_head(classifier: Classifier) -> nn.Linear | None:
    """Return the linear layer where the logits are that layer of the mean over all cells, which is measured."""
    model, layer = classifier.model, target_layer(classifier)
    linear = model.get_classifier() if hasattr(model, "get_classifier") else None
    if layer is None or not isinstance(linear, nn.Linear) or linear.in_features != model.num_features:
        return None
    noise = torch.randn(2, 3, *classifier.preprocessing.size, generator=torch.Generator().manual_seed(0))
    logits = model(noise)
    expected = linear(model.forward_features(noise).mean(dim=(2, 3)))
    return linear if (logits - expected).abs().max() <= 1e-4 * logits.abs().max() else None


# HiResCAM and LayerCAM


def hires_cam(
    classifier: Classifier,
    pixel_values: torch.Tensor,
    target: int,
    progress: Callable[..., None],
    *,
    layer: str = "last",
) -> tuple[np.ndarray, dict]:
    """Compute what each cell of a layer adds to the logit by its own gradient; signed, as Grad-CAM is here.

    Returns the attribution [H, W] in logits per cell and the settings. `layer` is "last" or "fine", see
    `target_layer`. On the last layer, before an average and a linear head, it is Grad-CAM. Raises `ValueError`.
    Paper: Draelos and Carin 2020, https://arxiv.org/abs/2011.08891
    """
    chosen = _layer(classifier, layer)
    activations, gradient = layer_gradient(classifier, pixel_values, target, chosen)
    progress(1, 1)
    cells = (gradient * activations).sum(dim=1, keepdim=True)
    return _on_picture(cells, chosen, pixel_values), _settings(chosen)


def layer_cam(
    classifier: Classifier,
    pixel_values: torch.Tensor,
    target: int,
    progress: Callable[..., None],
    *,
    layer: str = "fine",
) -> tuple[np.ndarray, dict]:
    """Compute what the cells of a layer add to the logit where more of them would raise it; never negative.

    Returns the attribution [H, W] in logits per cell and the settings. `layer` is "last" or "fine", see
    `target_layer`; where there is nothing finer, the last is read. Raises `ValueError`.
    Paper: Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943
    """
    chosen = _layer(classifier, layer)
    activations, gradient = layer_gradient(classifier, pixel_values, target, chosen)
    progress(1, 1)
    cells = (gradient.relu() * activations).sum(dim=1, keepdim=True).relu()
    return _on_picture(cells, chosen, pixel_values), _settings(chosen)


def _layer(classifier: Classifier, which: str) -> TargetLayer:
    return target_layer(classifier, which) or target_layer(classifier)


def layer_gradient(
    classifier: Classifier, pixel_values: torch.Tensor, target: int, layer: TargetLayer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a layer says of one picture, [1, C, h, w], and the gradient of the target's logit by it.

    As captum's layer methods do, but the gradient is followed down to the layer only, not on to the picture.
    """
    held = []

    def hold(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        held.append(output.detach().requires_grad_())
        return held[0].clone()  # what follows may work in place

    with classifier.private_model() as model:
        hook = model.get_submodule(layer.name).register_forward_hook(hold)
        try:
            logits = model(pixel_values)
        finally:
            hook.remove()
        gradient = torch.autograd.grad(logits[0, target], held[0])[0]
    return held[0].detach(), gradient


# Onto the picture


def resample_to_image(cells: torch.Tensor, layer: TargetLayer, size: tuple[int, int]) -> torch.Tensor:
    """Lay cells [N, C, h, w] on a picture of `size`, each at the pixel it is centred at, bilinear in between."""
    # The usual stretch takes cell i to be centred at stride * (i + 1/2) - 1/2. With the symmetric padding of ResNet
    # and EfficientNet it is stride * i, half a cell further up and to the left.
    axes = []
    for side, count, stride, offset in zip(size, cells.shape[2:], layer.stride, layer.offset, strict=True):
        index = (torch.arange(side) - offset) / stride
        axes.append((2 * index + 1) / count - 1)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).expand(len(cells), -1, -1, -1)
    return F.grid_sample(cells, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _on_picture(cells: torch.Tensor, layer: TargetLayer, pixel_values: torch.Tensor) -> np.ndarray:
    return resample_to_image(cells, layer, pixel_values.shape[2:])[0, 0].numpy()


def _settings(layer: TargetLayer) -> dict:
    return {"target_layer": layer.name, "cells": layer.cells, "stride": layer.stride, "offset": layer.offset}
