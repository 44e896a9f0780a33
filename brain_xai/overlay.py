"""Draw an attribution on the scan it explains: on the original, or on what the model sees of it."""

from dataclasses import dataclass
from math import ceil
from typing import Literal, Protocol

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from brain_xai.areas import Areas, find_areas
from brain_xai.color_bar import Legend, blend, color_bar
from brain_xai.preprocess import WHOLE, Part

MIN_SIDE = 480
Box = tuple[float, float, float, float]
Surface = Literal["original", "model"]
Bar = Legend | Literal["none"]
# For people, where `has_outline` is false.
NO_OUTLINE = "There is nothing to outline: no area of this map reaches half of full color."


class Drawable(Protocol):
    """What `draw_overlay` needs of its argument; see `AttributionMap` for the meaning. An `Explanation` has it all."""

    @property
    def view(self) -> Image.Image: ...
    @property
    def attribution(self) -> np.ndarray: ...
    @property
    def scale(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def signed(self) -> bool: ...
    @property
    def original(self) -> Image.Image | None: ...
    @property
    def part(self) -> Part: ...
    @property
    def tile(self) -> float: ...


@dataclass(frozen=True, eq=False)
class AttributionMap:
    """A map that is not a whole `Explanation`, such as a preview or a single channel.

    Attributes:
        view: The RGB image that the model sees, W x H pixels.
        attribution: Float [H, W]; in a signed map > 0 speaks for the label and < 0 against it, otherwise >= 0.
        scale: The attribution (> 0, in `unit`) that is drawn in full color; stronger evidence looks the same.
        unit: The unit of `attribution` and `scale`.
        signed: Whether the attribution can be negative; the color bar of an unsigned map begins at 0.
        original: The RGB image that the view was made from, None if it is the view itself.
        part: The part of the original that the view shows: left, top, right, bottom in fractions of width and height;
            see `brain_xai.preprocess.ModelInput`.
        tile: Side of the squares of equal evidence that the map is made of, in pixels of the view. They are drawn with
            soft edges; the middle of a square keeps its color.
    """

    view: Image.Image
    attribution: np.ndarray
    scale: float
    unit: str
    signed: bool
    original: Image.Image | None = None
    part: Part = WHOLE
    tile: float = 1.0


def draw_overlay(
    explanation: Drawable,
    opacity: float = 0.7,
    outline: bool = False,
    on: Surface = "original",
    box: Box | None = None,
    bar: Bar = "words",
) -> Image.Image:
    """Draw an attribution on its scan, with a color bar below.

    Positive evidence is orange, negative evidence blue; without evidence the scan stays as it is.

    Args:
        explanation: An `Explanation`, an `AttributionMap`, or anything else with the same fields.
        opacity: The opacity of full color, 0 to 1.
        outline: Whether to draw a line around the areas of positive evidence that reach half of full color, see
            `has_outline`.
        on: "original", the whole image in its own aspect, or "model", what the model sees of it.
        box: A box to draw, for example around a tumor: x_min, y_min, x_max, y_max in fractions of the original.
        bar: What the color bar says: "words", "numbers" (the scale and its unit, too), the words for both ends in
            another language, or "none" for no bar.

    Returns:
        An RGB image. The scan is enlarged by a whole factor to at least 480 pixels on each side; a bar adds 64 rows,
        88 with numbers.

    Raises:
        ValueError: If the attribution does not fit the view or is not finite, or if another argument is out of range.
    """
    view, attribution, scale = explanation.view, explanation.attribution, explanation.scale
    if attribution.shape != (view.height, view.width):
        raise ValueError(f"The attribution has shape {attribution.shape}, the view ({view.height}, {view.width}).")
    if not np.isfinite(attribution).all():
        raise ValueError("The attribution holds values that are not finite.")
    scan, part = _surface(explanation, on)
    scan = enlarged(scan)
    legend = color_bar(  # also checks scale and opacity
        scan.width, scale, opacity, explanation.unit, explanation.signed, "words" if bar == "none" else bar
    )
    evidence = resample(attribution, part, scan.size, explanation.tile) / scale
    drawn = Image.fromarray(blend(np.asarray(scan), evidence, opacity))
    if outline:
        _draw_outline(drawn, find_areas(attribution, scale), part)
    if box is not None:
        _draw_box(drawn, box if on == "original" else _within(box, explanation.part))
    if bar == "none":
        return drawn
    image = Image.new("RGB", (drawn.width, drawn.height + legend.height))
    image.paste(drawn, (0, 0))
    image.paste(legend, (0, drawn.height))
    return image


def has_outline(explanation: Drawable) -> bool:
    """Return whether `outline=True` draws a line; if not, `NO_OUTLINE` says why."""
    return bool(find_areas(explanation.attribution, explanation.scale).masks)


def draw_outline(image: Image.Image, areas: Areas, explanation: Drawable, on: Surface = "original") -> Image.Image:
    """Draw a line around areas, for example those of evidence against a class, on an overlay without color bar.

    Args:
        image: The overlay.
        areas: The areas, found in the attribution of `explanation` or in what was made of it.
        explanation: What is drawn.
        on: As of the overlay.

    Returns:
        An RGB image of the same size.
    """
    drawn = image.copy()
    _draw_outline(drawn, areas, _surface(explanation, on)[1])
    return drawn


def draw_box(image: Image.Image, box: Box) -> Image.Image:
    """Draw a box on a scan, for example where radiologists marked the tumor.

    Args:
        image: The scan.
        box: x_min, y_min, x_max, y_max as fractions of its width and height.

    Returns:
        An RGB image of the size of an overlay on the same scan, without color bar.

    Raises:
        ValueError: If the box is empty or inside out.
    """
    drawn = enlarged(image.convert("RGB"))
    _draw_box(drawn, box)
    return drawn


def enlarged(scan: Image.Image) -> Image.Image:
    """Return a copy of a scan, enlarged by a whole factor to at least 480 pixels on each side."""
    factor = ceil(MIN_SIDE / min(scan.size))
    return scan.resize((scan.width * factor, scan.height * factor), Image.Resampling.BICUBIC)


def resample(values: np.ndarray, part: Part, size: tuple[int, int], tile: float = 1.0) -> np.ndarray:
    """Resample a map of the view to an image of which the view shows a part.

    Args:
        values: Float [h, w], covering the part.
        part: Left, top, right, bottom of the part in fractions of the image's width and height.
        size: Width and height of the image in pixels.
        tile: Side of the squares of equal values that the map is made of; their edges become soft.

    Returns:
        Float32 [height, width]; 0 outside the part.
    """
    left, top, right, bottom = part
    rows = _weights(values.shape[0], size[1], (top, bottom), tile)
    columns = _weights(values.shape[1], size[0], (left, right), tile)
    return rows @ values.astype(np.float32) @ columns.T


def _weights(count: int, length: int, span: tuple[float, float], tile: float) -> np.ndarray:
    """Return how much each of `count` values adds to each of `length` pixels along an axis, float32 [length, count].

    The values cover a span of the axis, from one fraction of it to another.
    """
    start, end = span
    place = ((np.arange(length) + 0.5) / length - start) / (end - start) * count - 0.5
    width = max(1.0, tile / 2, count / (length * (end - start)))  # wider where several values share a pixel
    distance = np.abs(place.clip(0, count - 1)[:, None] - np.arange(count)) / width
    weights = (1 - distance).clip(min=0)
    weights /= weights.sum(axis=1, keepdims=True)
    weights[(place < -0.5) | (place > count - 0.5)] = 0
    return weights.astype(np.float32)


def _surface(explanation: Drawable, on: Surface) -> tuple[Image.Image, Part]:
    """Return the image to draw on, and which part of it the map covers."""
    if on not in ("original", "model"):
        raise ValueError(f'A map is drawn on "original" or "model", not on {on!r}.')
    if on == "model" or explanation.original is None:
        return explanation.view.convert("RGB"), WHOLE
    return explanation.original.convert("RGB"), explanation.part


def _within(box: Box, part: Part) -> Box:
    """Return a box of the original in fractions of a part of it."""
    left, top, right, bottom = part
    width, height = right - left, bottom - top
    return (box[0] - left) / width, (box[1] - top) / height, (box[2] - left) / width, (box[3] - top) / height


def _draw_outline(image: Image.Image, areas: Areas, part: Part) -> None:
    """Draw the edges of areas of a map: white on black, so that they show on any background."""
    near = resample(areas.together, part, image.size) > 0
    region = near & (resample(areas.strength, part, image.size) >= 1)
    mask = Image.fromarray(region.astype(np.uint8) * 255)
    edge = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(3)))
    line = edge.filter(ImageFilter.MaxFilter(3))
    image.paste("black", mask=line.filter(ImageFilter.MaxFilter(5)))
    image.paste("white", mask=line)


def _draw_box(image: Image.Image, box: Box) -> None:
    """Draw a box given in fractions of width and height: white on black, as an outline is."""
    x_min, y_min, x_max, y_max = box
    if not (x_min < x_max and y_min < y_max):
        raise ValueError(f"A box needs x_min < x_max and y_min < y_max, got {box}.")
    left, right = (round(x * image.width - 0.5) for x in (x_min, x_max))
    top, bottom = (round(y * image.height - 0.5) for y in (y_min, y_max))
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 3, top - 3, right + 3, bottom + 3), outline="black", width=7)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=3)
