"""Draw an attribution on the image it explains: numbers become colors, and a color bar says what they mean."""

import re
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Protocol

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

MIN_SIDE = 480
BAR_HEIGHT = 88
# The two bright arms of "managua", from Fabio Crameri's Scientific Colour Maps (MIT, doi 10.5281/zenodo.1243862), weak
# to strong: equally light, and distinguishable with any color vision. The scan shows where managua has its dark middle.
NEGATIVE_COLORS = np.array([(95, 137, 195), (111, 182, 226), (129, 231, 255)])
POSITIVE_COLORS = np.array([(193, 116, 73), (224, 159, 87), (255, 207, 103)])
TISSUE_GRAY = 64
TEXT_SIZE = 20
MIN_TEXT_SIZE = 12


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


@dataclass(frozen=True, eq=False)
class AttributionMap:
    """A map that is not a whole `Explanation`, such as a preview or a single channel.

    Attributes:
        view: The RGB image that the model sees, W x H pixels.
        attribution: Float [H, W]; in a signed map > 0 speaks for the label and < 0 against it, otherwise >= 0.
        scale: The attribution (> 0, in `unit`) that is drawn in full color; stronger evidence looks the same.
        unit: The unit of `attribution` and `scale`, written below the color bar.
        signed: Whether the attribution can be negative; the color bar of an unsigned map begins at 0.
    """

    view: Image.Image
    attribution: np.ndarray
    scale: float
    unit: str
    signed: bool


def draw_overlay(
    explanation: Drawable,
    opacity: float = 0.7,
    outline: bool = False,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Draw an attribution on its view, with a color bar below.

    Positive evidence is orange, negative evidence blue; without evidence the scan stays as it is.

    Args:
        explanation: An `Explanation`, an `AttributionMap`, or anything else with the same five fields.
        opacity: The opacity of full color, 0 to 1.
        outline: Whether to draw a line around the positive evidence that reaches half of the scale.
        box: A box to draw, for example around a tumor: x_min, y_min, x_max, y_max as fractions of width and height.

    Returns:
        An RGB image. The view is enlarged by a whole factor to at least 480 x 480 pixels; the bar adds 88 rows.

    Raises:
        ValueError: If the attribution does not fit the view or is not finite, or if another argument is out of range.
    """
    view, attribution, scale = explanation.view, explanation.attribution, explanation.scale
    width, height = view.size
    if attribution.shape != (height, width):
        raise ValueError(f"The attribution has shape {attribution.shape}, the view ({height}, {width}).")
    if not np.isfinite(attribution).all():
        raise ValueError("The attribution holds values that are not finite.")
    factor = ceil(MIN_SIDE / min(view.size))
    size = (width * factor, height * factor)
    bar = color_bar(size[0], scale, opacity, explanation.unit, explanation.signed)  # checks scale and opacity
    scan = np.asarray(view.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    evidence = np.asarray(Image.fromarray(attribution.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    drawn = Image.fromarray(_blend(scan, evidence / scale, opacity))
    if outline:
        # The level is the same for all images: a map of weak evidence gets no outline instead of one around its noise.
        _draw_outline(drawn, evidence >= scale / 2)
    if box is not None:
        _draw_box(drawn, box)
    image = Image.new("RGB", (size[0], size[1] + bar.height))
    image.paste(drawn, (0, 0))
    image.paste(bar, (0, size[1]))
    return image


def color_bar(width: int, scale: float, opacity: float = 0.7, unit: str = "logits", signed: bool = True) -> Image.Image:
    """Draw the legend of an overlay: the colors from -scale (or 0) to +scale as they look on dark gray tissue.

    Args:
        width: The width of the bar in pixels.
        scale: The attribution (> 0, in `unit`) that is drawn in full color.
        opacity: The opacity of full color, 0 to 1.
        unit: The unit of the attribution.
        signed: Whether the attribution can be negative: "against … for" instead of "none … much".

    Returns:
        An RGB image of `width` x 88 pixels.

    Raises:
        ValueError: If `scale` or `opacity` is out of range.
    """
    if not (scale > 0 and isfinite(scale)):
        raise ValueError(f"The scale must be a positive number, got {scale}.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"The opacity must lie between 0 and 1, got {opacity}.")
    margin, top, bottom = 16, 12, 32
    evidence = np.linspace(-1 if signed else 0, 1, width - 2 * margin)[None].repeat(bottom - top, axis=0)
    tissue = np.full((*evidence.shape, 3), TISSUE_GRAY, dtype=np.uint8)
    bar = Image.new("RGB", (width, BAR_HEIGHT))
    bar.paste(Image.fromarray(_blend(tissue, evidence, opacity)), (margin, top))
    draw = ImageDraw.Draw(bar)
    if signed:
        labels = ((f"−{scale:.2g}", "against"), ("0", unit), (f"+{scale:.2g}", "for"))
    else:
        labels = (("0", "none"), ("", unit), (f"{scale:.2g}", "much"))
    room_beside_end_words = width - 2 * margin - 140
    for (number, word), x, align, room in zip(
        labels, (margin, width // 2, width - margin), (0, 0.5, 1), (width, room_beside_end_words, width), strict=True
    ):
        _draw_text(draw, number, (x, bottom + 21), align, TEXT_SIZE)
        _draw_text(draw, word, (x, bottom + 45), align, _fitting_size(word, room))
    return bar


def _blend(scan: np.ndarray, evidence: np.ndarray, opacity: float) -> np.ndarray:
    """Color a scan, uint8 [H, W, 3], by evidence [H, W]: full color at -1 and 1, the scan itself at 0."""
    strength = np.abs(evidence).clip(max=1)
    positive = evidence[..., None] > 0
    color = np.where(positive, _colors(POSITIVE_COLORS, strength), _colors(NEGATIVE_COLORS, strength))
    alpha = opacity * strength[..., None]
    return (scan * (1 - alpha) + color * alpha).round().astype(np.uint8)


def _colors(anchors: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Interpolate the anchors at `strength` [H, W], 0 to 1; returns [H, W, 3]."""
    steps = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(strength, steps, channel) for channel in anchors.T], axis=-1)


def _draw_outline(image: Image.Image, region: np.ndarray) -> None:
    """Draw the edge of a region, bool [H, W]: white on black, so that it shows on any background."""
    mask = Image.fromarray(region.astype(np.uint8) * 255)
    edge = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(3)))
    line = edge.filter(ImageFilter.MaxFilter(3))
    image.paste("black", mask=line.filter(ImageFilter.MaxFilter(5)))
    image.paste("white", mask=line)


def _draw_box(image: Image.Image, box: tuple[float, float, float, float]) -> None:
    """Draw a box given in fractions of width and height: white on black, as an outline is."""
    x_min, y_min, x_max, y_max = box
    if not (x_min < x_max and y_min < y_max):
        raise ValueError(f"A box needs x_min < x_max and y_min < y_max, got {box}.")
    left, right = (round(x * (image.width - 1)) for x in (x_min, x_max))
    top, bottom = (round(y * (image.height - 1)) for y in (y_min, y_max))
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 3, top - 3, right + 3, bottom + 3), outline="black", width=7)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=3)


def _draw_text(draw: ImageDraw.ImageDraw, text: str, position: tuple[float, float], align: float, size: int) -> None:
    """Write on the baseline at `position`, which is the text's left end (`align` 0), middle (0.5) or right end (1).

    Pillow's own font, the only one on every machine, lacks the characters "²", "−" and "×"; they are composed here.
    """
    font = ImageFont.load_default(size=size)
    x, baseline = position[0] - align * _text_width(text, size), position[1]
    for run in _runs(text):
        if run == "−":
            left, top, right, bottom = font.getbbox("+", anchor="ls")
            middle = baseline + (top + bottom) / 2
            draw.line((x + left + 1, middle, x + right - 2, middle), fill="white", width=1)
        elif run == "²":
            draw.text((x, baseline - 0.4 * size), "2", font=_small(size), anchor="ls", fill="white")
        else:
            draw.text((x, baseline), run.replace("×", "x"), font=font, anchor="ls", fill="white")
        x += _run_width(run, size)


def _fitting_size(text: str, room: int) -> int:
    """Return the largest font size that fits `room` pixels, at least 12 and at most 20."""
    return next(
        (size for size in range(TEXT_SIZE, MIN_TEXT_SIZE, -1) if _text_width(text, size) <= room), MIN_TEXT_SIZE
    )


def _text_width(text: str, size: int) -> float:
    return sum(_run_width(run, size) for run in _runs(text))


def _run_width(run: str, size: int) -> float:
    if run == "²":
        return _small(size).getlength("2")
    return ImageFont.load_default(size=size).getlength("+" if run == "−" else run.replace("×", "x"))


def _runs(text: str) -> list[str]:
    """Split a text into the characters that are composed and the runs between them."""
    return re.findall("[²−]|[^²−]+", text)


def _small(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=round(0.65 * size))
