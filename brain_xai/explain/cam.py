"""Class-activation maps: how much each cell of the last layer that still is a picture adds to the logit."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from brain_xai.classifier import Classifier
from brain_xai.explain.layers import TargetLayer, target_layer


def needs_cells(classifier: Classifier) -> str | None:
    """Return why class-activation maps do not work on this classifier, None where they do."""
    if target_layer(classifier):
        return None
    architecture = classifier.info.architecture
    return (
        f"Class-activation maps need a last layer made of cells that lie on the picture; {architecture} has none. "
        "Use occlusion, which works for every model."
    )


def grad_cam(
    classifier: Classifier, pixel_values: torch.Tensor, target: int, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, dict]:
    """Compute the signed Grad-CAM of one class, without the rectifier of the paper, which hides what speaks against.

    Returns the attribution [H, W] in logits per cell and the settings. Where the head is an average over the cells
    and one linear layer (ResNet, EfficientNet), the cells sum to the logit less its bias.
    Paper: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
    """
    from captum.attr import LayerGradCam  # takes over a second, as it brings matplotlib

    layer = target_layer(classifier)
    with classifier.private_model() as model:
        engine = LayerGradCam(model, model.get_submodule(layer.name))
        cells = engine.attribute(pixel_values, target=target, relu_attributions=False).detach()
    progress(1, 1)
    settings = {"target_layer": layer.name, "cells": layer.cells, "stride": layer.stride, "offset": layer.offset}
    return spread(cells, layer, pixel_values.shape[2:])[0, 0].numpy(), settings


def spread(cells: torch.Tensor, layer: TargetLayer, size: tuple[int, int]) -> torch.Tensor:
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
