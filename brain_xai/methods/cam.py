"""Class-activation maps: how much each position of a layer's feature map adds to the logit."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from brain_xai.classifier import Classifier, linear_head
from brain_xai.forward import ModelOutput, class_grids, gradient_grids
from brain_xai.methods.request import Request
from brain_xai.methods.target_layer import TargetLayer, target_layer


def cam_unsupported(classifier: Classifier) -> str | None:
    """Return why class-activation maps do not work on this classifier, None if they do."""
    if target_layer(classifier):
        return None
    architecture = classifier.info.architecture
    return (
        f"Class-activation maps need a last feature map of channels, rows and columns; {architecture} has none. "
        "Use occlusion, which works for every model."
    )


# Grad-CAM


def grad_cam(request: Request) -> tuple[np.ndarray, dict]:
    """Compute Grad-CAM without its final ReLU, so that evidence against the class stays visible.

    Args:
        request: The class and image to explain. The engine "auto" needs one forward pass and the gradient of the head
            alone; "captum" is Captum's `LayerGradCam`, which goes forward and back through the whole model.

    Returns:
        The attribution, float32 [H, W] in logits per position of the feature map, > 0 for and < 0 against the class,
        and the settings. If the head is a global average followed by one linear layer, the positions sum to the logit
        minus its bias.

    Reference:
        Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
    """
    classifier, layer = request.classifier, target_layer(request.classifier)
    shortcut = None
    if request.engine == "auto":
        shortcut = grad_cam_of_pass(classifier, classifier.forward(request.pixel_values), [request.target])
    request.progress(1, 1)
    if shortcut is not None:
        return shortcut[0][0], shortcut[1]
    return to_image_space(captum_grad_cam(request, layer), layer, request.size), _settings(layer, "captum")


def grad_cam_of_pass(
    classifier: Classifier, output: ModelOutput, targets: Sequence[int]
) -> tuple[np.ndarray, dict] | None:
    """Compute the Grad-CAM of some classes from the forward pass that predicts one image.

    Returns:
        Attributions, float32 [targets, H, W] as `grad_cam` returns them, and the settings. None if the model is not
        divided into features and head.
    """
    if (linear := linear_head(classifier)) is not None:
        every = class_grids(output, linear)
        grids = torch.stack([every[:, target] for target in targets], dim=1)
    elif hasattr(classifier.model, "forward_head"):
        grids = gradient_grids(classifier.model, output, targets)
    else:
        return None
    layer = target_layer(classifier)
    attributions = resample_to_image(grids, layer, classifier.preprocessing.size)[0]
    return attributions.cpu().numpy(), _settings(layer, "shortcut")


def captum_grad_cam(request: Request, layer: TargetLayer) -> torch.Tensor:
    """Return Captum's Grad-CAM of a layer before it is resampled to the image, [1, 1, h, w]."""
    from captum.attr import LayerGradCam  # takes over a second, because it imports matplotlib

    with request.classifier.private_model() as model:
        engine = LayerGradCam(model, model.get_submodule(layer.name))
        return engine.attribute(request.pixel_values, target=request.target).detach()


# HiResCAM and LayerCAM


def hires_cam(request: Request, *, layer: str = "penultimate") -> tuple[np.ndarray, dict]:
    """Compute HiResCAM: activation × gradient, summed over channels.

    Args:
        request: The class and image to explain.
        layer: "last" or "penultimate", see `target_layer`; a model without a penultimate layer is read at the last.
            At the last layer, before a global average and one linear layer, HiResCAM equals Grad-CAM.

    Returns:
        The attribution, float32 [H, W] in logits per position of the feature map, > 0 for and < 0 against the class,
        and the settings.

    Raises:
        ValueError: There is no such layer.

    Reference:
        Draelos and Carin 2020, https://arxiv.org/abs/2011.08891
    """
    chosen = _layer(request.classifier, layer)
    grid = _gradient_x_activation(request, chosen).sum(dim=1, keepdim=True)
    request.progress(1, 1)
    return to_image_space(grid, chosen, request.size), _settings(chosen, "captum")


def layer_cam(request: Request, *, layer: str = "penultimate") -> tuple[np.ndarray, dict]:
    """Compute LayerCAM: activation × positive gradient, summed over channels, then ReLU.

    Args:
        request: The class and image to explain.
        layer: "last" or "penultimate", see `target_layer`; a model without a penultimate layer is read at the last.

    Returns:
        The attribution, float32 [H, W] >= 0 in logits per position of the feature map, and the settings.

    Raises:
        ValueError: There is no such layer.

    Reference:
        Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943
    """
    chosen = _layer(request.classifier, layer)
    products, activations = _gradient_x_activation(request, chosen), captum_activation(request, chosen)
    # The gradient is positive where the product has the sign of the activation.
    raised = torch.where(products.sign() == activations.sign(), products, 0)
    request.progress(1, 1)
    grid = raised.sum(dim=1, keepdim=True).relu()
    return to_image_space(grid, chosen, request.size), _settings(chosen, "captum")


def _layer(classifier: Classifier, which: str) -> TargetLayer:
    return target_layer(classifier, which) or target_layer(classifier)


def _gradient_x_activation(request: Request, layer: TargetLayer) -> torch.Tensor:
    """Return a layer's gradient × activation, [1, C, h, w]."""
    from captum.attr import LayerGradientXActivation

    with request.classifier.private_model() as model:
        engine = LayerGradientXActivation(model, model.get_submodule(layer.name))
        return engine.attribute(request.pixel_values, target=request.target).detach()


def captum_activation(request: Request, layer: TargetLayer) -> torch.Tensor:
    """Return a layer's output, [1, C, h, w]."""
    from captum.attr import LayerActivation

    with request.classifier.private_model() as model:
        return LayerActivation(model, model.get_submodule(layer.name)).attribute(request.pixel_values).detach()


# From the feature map to the image


def resample_to_image(feature_map: torch.Tensor, layer: TargetLayer, size: tuple[int, int]) -> torch.Tensor:
    """Resample a feature map to image size, using the true center of each receptive field.

    Args:
        feature_map: [N, C, h, w], on any device.
        layer: The layer that it comes from.
        size: Height and width of the image.

    Returns:
        Float32 [N, C, H, W] on the same device: bilinear between the centers, constant beyond the outer ones.
    """
    grid = _sampling_grid(layer, tuple(feature_map.shape[2:]), tuple(size), feature_map.device)
    grid = grid.expand(len(feature_map), -1, -1, -1)
    return F.grid_sample(feature_map.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


@functools.lru_cache(maxsize=16)  # the same for every image of a model, and it takes longer than resampling by it
@torch.inference_mode(False)  # callers in any mode share it
def _sampling_grid(
    layer: TargetLayer, cells: tuple[int, int], size: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """Return where each pixel of the image lies on the feature map, float32 [1, H, W, 2] as `grid_sample` wants it."""
    # The usual stretching assumes that position i is centered at stride * (i + 1/2) - 1/2. With the symmetric padding
    # of ResNet and EfficientNet it is stride * i, half a stride further up and to the left.
    axes = []
    for side, count, stride, offset in zip(size, cells, layer.stride, layer.offset, strict=True):
        index = (torch.arange(side, device=device) - offset) / stride
        axes.append((2 * index + 1) / count - 1)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([columns, rows], dim=-1)[None]


def to_image_space(feature_map: torch.Tensor, layer: TargetLayer, size: tuple[int, int]) -> np.ndarray:
    """Return a feature map [1, 1, h, w] as an attribution, float32 [H, W]."""
    return resample_to_image(feature_map, layer, size)[0, 0].cpu().numpy()


def _settings(layer: TargetLayer, engine: str) -> dict:
    return {
        "engine": engine,
        "target_layer": layer.name,
        "cells": layer.grid_size,
        "stride": layer.stride,
        "offset": layer.offset,
    }
