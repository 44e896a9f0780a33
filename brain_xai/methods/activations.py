"""What the last layer reacts to, whatever the class: its strongest channels."""

from collections.abc import Callable

import numpy as np
import torch

from brain_xai.classifier import Classifier
from brain_xai.methods.cam import resample_to_image
from brain_xai.methods.target_layer import target_layer


def layer_activation(
    classifier: Classifier,
    pixel_values: torch.Tensor,
    target: int,
    progress: Callable[..., None],
    *,
    count: int = 16,
) -> tuple[np.ndarray, dict]:
    """Compute the mean of the strongest channels of the last layer; the same for every class.

    Returns the attribution [H, W] >= 0 in units of the layer's output and the settings, `count` the number of channels
    and `channels` which they are. Raises `ValueError`.
    Paper: Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901
    """
    maps, channels, _ = channel_maps(classifier, pixel_values, count)
    progress(1, 1)
    return maps.mean(axis=0), {"target_layer": target_layer(classifier).name, "channels": channels}


@torch.inference_mode()
def channel_maps(
    classifier: Classifier, pixel_values: torch.Tensor, count: int
) -> tuple[np.ndarray, list[int], list[float]]:
    """Return the maps [k, H, W] >= 0 of the strongest channels, strongest first, their numbers and their strengths.

    A channel is as strong as the mean of its positive activations over all cells. There are at most `count`.
    """
    if count < 1:
        raise ValueError(f"At least one channel must be shown, got {count}.")
    # No hook is set, so the model that predicts can be used, by many at once.
    features = classifier.model.forward_features(pixel_values).float().relu()
    strengths, channels = features.mean(dim=(2, 3))[0].topk(min(count, features.shape[1]))
    maps = resample_to_image(features[:, channels], target_layer(classifier), pixel_values.shape[2:])[0]
    return maps.numpy(), channels.tolist(), strengths.tolist()
