"""What the last layer reacts to, whatever the class: its strongest channels."""

import numpy as np
import torch

from brain_xai.classifier import Classifier
from brain_xai.methods.cam import captum_activation, resample_to_image
from brain_xai.methods.request import Request
from brain_xai.methods.target_layer import target_layer


def layer_activation(request: Request, *, count: int = 16) -> tuple[np.ndarray, dict]:
    """Compute the mean of the strongest channels of the last layer; it is the same for every class.

    Args:
        request: The image to explain. The engine "auto" asks the model for its features; "captum" uses Captum's
            `LayerActivation`.
        count: How many channels are averaged, at most all of them.

    Returns:
        The attribution, float32 [H, W] >= 0 in units of the layer's output, and the settings with the indices of the
        `channels`.

    Raises:
        ValueError: `count` is less than 1.

    Reference:
        Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901
    """
    classifier, layer = request.classifier, target_layer(request.classifier)
    captum = request.engine == "captum"
    features = captum_activation(request, layer) if captum else _features(classifier, request.pixel_values)
    maps, channels = _strongest(features, classifier, count, request.size)
    request.progress(1, 1)
    engine = "captum" if captum else "shortcut"
    return maps.mean(axis=0), {"engine": engine, "target_layer": layer.name, "channels": channels}


def channel_maps(classifier: Classifier, pixel_values: torch.Tensor, count: int) -> tuple[np.ndarray, list[int]]:
    """Compute what the strongest channels of the last layer react to.

    A channel is as strong as the mean of its positive activations.

    Returns:
        The maps, float32 [k, H, W] >= 0, strongest first, and the indices of the channels; k is at most `count`.
    """
    features = _features(classifier, classifier.to_device(pixel_values))
    return _strongest(features, classifier, count, pixel_values.shape[2:])


@torch.inference_mode()
def _features(classifier: Classifier, pixel_values: torch.Tensor) -> torch.Tensor:
    # The target layer's output is this very tensor. No hook is set, so many threads can use the shared model.
    return classifier.model.forward_features(pixel_values)


@torch.inference_mode()
def _strongest(
    features: torch.Tensor, classifier: Classifier, count: int, size: tuple[int, int]
) -> tuple[np.ndarray, list[int]]:
    if count < 1:
        raise ValueError(f"Layer activations need a count of at least 1 channel, got {count}.")
    features = features.float().relu()
    channels = features.mean(dim=(2, 3))[0].topk(min(count, features.shape[1])).indices
    maps = resample_to_image(features[:, channels], target_layer(classifier), size)[0]
    return maps.cpu().numpy(), channels.tolist()
