"""`explain`: what in an image speaks for a class and what against, computed by one method of METHODS."""

import inspect
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from brain_xai.classifier import Classifier, Prediction
from brain_xai.methods import METHODS, Method
from brain_xai.methods.activations import channel_maps
from brain_xai.methods.request import Progress, Request, no_progress
from brain_xai.overlay import Bar, Box, Surface, draw_overlay
from brain_xai.preprocess import ModelInput, Part

ENGINES = ("auto", "captum")


class MethodNotApplicable(ValueError):
    """The method cannot work on this architecture; the message says why and what to use instead."""


class Cancelled(Exception):
    """For a `progress` callback to raise when the map is no longer wanted."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What in an image speaks for one class, and what against.

    Attributes:
        method: A key of METHODS.
        label: The explained class.
        target: Its index.
        attribution: Float32 [H, W], the same size as `view`, in `unit`: > 0 speaks for the label, < 0 against it.
        scale: The attribution (> 0, in `unit`) that is drawn in full color, the same for all images of a checkpoint.
        unit: The unit of `attribution` and `scale`.
        signed: Whether the method can show evidence against the label; otherwise `attribution` is >= 0.
        view: The RGB image that the model sees, W x H pixels.
        prediction: The model's answer for the image.
        settings: How the map was made, ready for JSON. "engine" is "captum", "shortcut" (the same map in less time) or
            "combined" (made of several methods' maps) or "own" (Captum has no such method).
        original: The whole image as it was read, upright, RGB, in its own size, but at most 2,048 pixels on a side.
        part: The part of the original that the view shows: left, top, right, bottom in fractions of width and height;
            see `brain_xai.preprocess.ModelInput`.
    """

    method: str
    label: str
    target: int
    attribution: np.ndarray
    scale: float
    unit: str
    signed: bool
    view: Image.Image
    prediction: Prediction
    settings: dict
    original: Image.Image
    part: Part

    @property
    def tile(self) -> float:
        """Side of the squares of equal evidence that the map is made of, in pixels; 1 but for occlusion."""
        return float(max(self.settings["stride"])) if "window" in self.settings else 1.0

    def image(
        self,
        opacity: float = 0.7,
        outline: bool = False,
        on: Surface = "original",
        box: Box | None = None,
        bar: Bar = "words",
    ) -> Image.Image:
        """Draw the attribution on the scan, with a color bar below; see `draw_overlay`.

        Args:
            opacity: The opacity of full color, 0 to 1.
            outline: Whether to draw a line around the areas of positive evidence that reach half of full color.
            on: "original", the whole image in its own aspect, or "model", what the model sees of it.
            box: A box to draw: x_min, y_min, x_max, y_max in fractions of the original.
            bar: What the color bar says: "words", "numbers" (the scale and its unit, too), or "none" for no bar.

        Returns:
            An RGB image; the scan is enlarged by a whole factor to at least 480 pixels on each side.
        """
        return draw_overlay(self, opacity, outline, on, box, bar)

    def save(self, path: str | os.PathLike) -> None:
        """Save `image()` as a file, in the format of the path's suffix."""
        self.image().save(path)


@dataclass(frozen=True, eq=False)
class Channels:
    """What the strongest channels of the last layer react to.

    Attributes:
        maps: Float32 [k, H, W] >= 0, strongest channel first, in units of the layer's output.
        channels: The k indices of the channels in the layer.
        view: The RGB image that the model sees, W x H pixels.
        original: As of an `Explanation`.
        part: As of an `Explanation`.
    """

    maps: np.ndarray
    channels: list[int]
    view: Image.Image
    original: Image.Image
    part: Part


@torch.inference_mode(False)  # most methods need gradients, whatever mode the caller is in
@torch.enable_grad()
def explain(
    classifier: Classifier,
    image: Image.Image | np.ndarray | str | os.PathLike,
    method: str = "grad_cam",
    target: str | int = "predicted",
    *,
    progress: Progress | None = None,
    engine: str = "auto",
    **settings: Any,
) -> Explanation:
    """Show what in an image speaks for a class.

    Args:
        classifier: The model to explain.
        image: A PIL image, a NumPy array (see `brain_xai.preprocess.read_image`) or a path.
        method: A key of METHODS.
        target: A label, a class index or "predicted".
        progress: Called as `progress(done, total)` after every batch of forward passes, by some methods with the map so
            far, float32 [H, W], as a third argument. What it raises (e.g. `Cancelled`) ends the work at once and
            reaches the caller.
        engine: "captum" computes the map with Captum; "auto" takes a shortcut if it gives the same map in less time.
        **settings: The method's own settings, see the function of the method in `brain_xai.methods`.

    Returns:
        The map with everything needed to read it.

    Raises:
        ValueError: Method, target, engine or a setting does not exist, or a setting is out of range.
        MethodNotApplicable: The method cannot work on this architecture.
        UnreadableImage: The image cannot be used.
    """
    chosen = _choose(classifier, method, engine, settings)
    progress = progress or no_progress
    prepared = classifier.prepare(image)
    output = classifier.forward(prepared.pixel_values)
    index = classifier.target_index(target, output.logits[0])
    of_pass = chosen.attribute_of_pass(classifier, output, [index]) if engine == "auto" else None
    if of_pass is not None:
        attribution, used = of_pass[0][0], of_pass[1]
        progress(1, 1)
    else:
        request = Request(classifier, prepared.pixel_values, index, progress, engine)
        attribution, used = chosen.attribute(request, **settings)
    prediction = classifier.prediction(output, prepared.looks)
    return _explanation(classifier, chosen, prepared, index, prediction, (attribution, used))


@torch.inference_mode(False)
@torch.enable_grad()
def explain_all(
    classifier: Classifier,
    image: Image.Image | np.ndarray | str | os.PathLike,
    method: str = "grad_cam",
    *,
    engine: str = "auto",
    **settings: Any,
) -> dict[str, Explanation]:
    """Show what in an image speaks for each class.

    Grad-CAM takes all maps from the one forward pass that predicts. Occlusion covers the image once for all classes.
    Every method predicts only once.

    Args:
        classifier: The model to explain.
        image: As for `explain`.
        method: As for `explain`.
        engine: As for `explain`.
        **settings: As for `explain`.

    Returns:
        {label: explanation}, in the order of the classes.

    Raises:
        ValueError: As `explain`, also `MethodNotApplicable` and `UnreadableImage`.
    """
    chosen = _choose(classifier, method, engine, settings)
    prepared = classifier.prepare(image)
    output = classifier.forward(prepared.pixel_values)
    together = None
    if engine == "auto":
        together = chosen.attribute_of_pass(classifier, output, range(len(classifier.label_names)))
        if together is None and chosen.attribute_each_class:
            request = Request(classifier, prepared.pixel_values, target=0)
            together = chosen.attribute_each_class(request, **settings)

    def of_class(index: int) -> tuple[np.ndarray, dict]:
        if together is not None:
            return together[0][index], together[1]
        return chosen.attribute(Request(classifier, prepared.pixel_values, index, engine=engine), **settings)

    prediction = classifier.prediction(output, prepared.looks)
    return {
        label: _explanation(classifier, chosen, prepared, index, prediction, of_class(index))
        for index, label in enumerate(classifier.label_names)
    }


def strongest_channels(
    classifier: Classifier, image: Image.Image | np.ndarray | str | os.PathLike, count: int = 16
) -> Channels:
    """Show what the strongest channels of the last layer react to in an image.

    Args:
        classifier: The model to explain.
        image: As for `explain`.
        count: How many channels, at most all of them.

    Returns:
        The channels, strongest first.

    Raises:
        ValueError: `count` is less than 1; also `MethodNotApplicable` and `UnreadableImage`.
    """
    _choose(classifier, "layer_activation", "auto", {})
    prepared = classifier.prepare(image)
    maps, channels = channel_maps(classifier, prepared.pixel_values, count)
    return Channels(maps, channels, prepared.view, prepared.original, prepared.part)


def color_scale(classifier: Classifier, method: str) -> float:
    """Return the attribution that is drawn in full color, in the method's unit: as measured, else the default."""
    return classifier.attribution_scale.get(method, METHODS[method].default_scale)


def _choose(classifier: Classifier, key: str, engine: str, settings: dict[str, Any]) -> Method:
    """Return a method that can do what is asked; raises `ValueError` and `MethodNotApplicable`."""
    if key not in METHODS:
        raise ValueError(f"{key!r} is not a method. Use one of: {', '.join(METHODS)}.")
    method = METHODS[key]
    if engine not in ENGINES:
        raise ValueError(f"{engine!r} is not an engine. Use one of: {', '.join(ENGINES)}.")
    if engine == "captum" and "captum" not in method.engines:
        with_captum = ", ".join(other.key for other in METHODS.values() if "captum" in other.engines)
        raise ValueError(f"{key} has no counterpart in Captum. With engine='captum' use one of: {with_captum}.")
    parameters = inspect.signature(method.attribute).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in settings:
        if name not in known:
            raise ValueError(f"{key} has no setting {name!r}. Its settings are: {', '.join(known) or 'none'}.")
    if reason := method.reason_unsupported(classifier):
        raise MethodNotApplicable(reason)
    return method


def _explanation(
    classifier: Classifier,
    method: Method,
    prepared: ModelInput,
    target: int,
    prediction: Prediction,
    map_and_settings: tuple[np.ndarray, dict],
) -> Explanation:
    attribution, settings = map_and_settings
    return Explanation(
        method=method.key,
        label=classifier.label_names[target],
        target=target,
        attribution=attribution,
        scale=color_scale(classifier, method.key),
        unit=method.unit,
        signed=method.signed,
        view=prepared.view,
        prediction=prediction,
        settings=settings,
        original=prepared.original,
        part=prepared.part,
    )
