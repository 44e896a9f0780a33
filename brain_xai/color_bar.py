"""The colors of a map, and the bar that says what they mean."""

import re
from math import isfinite
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# The two bright arms of "managua", from Fabio Crameri's Scientific Colour Maps (MIT, doi 10.5281/zenodo.1243862), weak
# to strong: equally light, and distinguishable with any color vision. The scan shows where managua has its dark middle.
NEGATIVE_COLORS = np.array([(95, 137, 195), (111, 182, 226), (129, 231, 255)])
POSITIVE_COLORS = np.array([(193, 116, 73), (224, 159, 87), (255, 207, 103)])
TISSUE_GRAY = 64
TEXT_SIZE = 20
MIN_TEXT_SIZE = 12
MARGIN, TOP, BOTTOM = 16, 12, 32
LINE = 24
# Below the colors, what a reader needs to know; "numbers" adds a line with the scale and its unit. Two texts stand in
# place of the English words at both ends.
Legend = Literal["words", "numbers"] | tuple[str, str]


def blend(scan: np.ndarray, evidence: np.ndarray, opacity: float) -> np.ndarray:
    """Color a scan by evidence.

    Args:
        scan: Uint8 [H, W, 3].
        evidence: Float [H, W]: full color at -1 and 1, the scan itself at 0.
        opacity: The opacity of full color, 0 to 1.

    Returns:
        Uint8 [H, W, 3].
    """
    strength = np.abs(evidence).clip(max=1)
    positive = evidence[..., None] > 0
    color = np.where(positive, _colors(POSITIVE_COLORS, strength), _colors(NEGATIVE_COLORS, strength))
    alpha = opacity * strength[..., None]
    return (scan * (1 - alpha) + color * alpha).round().astype(np.uint8)


def color_bar(
    width: int,
    scale: float,
    opacity: float = 0.7,
    unit: str = "logits",
    signed: bool = True,
    legend: Legend = "words",
) -> Image.Image:
    """Draw the legend of an overlay: the colors from -scale (or 0) to +scale as they look on dark gray tissue.

    Args:
        width: The width of the bar in pixels.
        scale: The attribution (> 0, in `unit`) that is drawn in full color.
        opacity: The opacity of full color, 0 to 1.
        unit: The unit of the attribution, written with the numbers.
        signed: Whether the attribution can be negative: "strongly against … strongly for" instead of "none … much".
        legend: "words"; "numbers", which adds the scale and its unit; or the words for both ends in another language.

    Returns:
        An RGB image of `width` x 64 pixels, x 88 with numbers.

    Raises:
        ValueError: If `scale`, `opacity` or `legend` is out of range.
    """
    if not (scale > 0 and isfinite(scale)):
        raise ValueError(f"The scale must be a positive number, got {scale}.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"The opacity must lie between 0 and 1, got {opacity}.")
    if not isinstance(legend, tuple) and legend not in ("words", "numbers"):
        raise ValueError(f'The legend must be "words" or "numbers", got {legend!r}.')
    evidence = np.linspace(-1 if signed else 0, 1, width - 2 * MARGIN)[None].repeat(BOTTOM - TOP, axis=0)
    tissue = np.full((*evidence.shape, 3), TISSUE_GRAY, dtype=np.uint8)
    left, right = legend if isinstance(legend, tuple) else ends(signed)
    lines = [_numbers(scale, unit, signed)] * (legend == "numbers") + [(left, "", right)]
    bar = Image.new("RGB", (width, BOTTOM + 8 + LINE * len(lines)))
    bar.paste(Image.fromarray(blend(tissue, evidence, opacity)), (MARGIN, TOP))
    draw = ImageDraw.Draw(bar)
    for number, line in enumerate(lines):
        _draw_line(draw, line, width, BOTTOM + 21 + LINE * number)
    return bar


def ends(signed: bool) -> tuple[str, str]:
    """Return what both ends of the colors mean."""
    return ("strongly against", "strongly for") if signed else ("none", "much")


def _numbers(scale: float, unit: str, signed: bool) -> tuple[str, str, str]:
    """Return the scale below the colors: left, middle, right."""
    return (f"−{scale:.2g}", unit, f"+{scale:.2g}") if signed else ("0", unit, f"{scale:.2g}")


def _draw_line(draw: ImageDraw.ImageDraw, texts: tuple[str, str, str], width: int, baseline: int) -> None:
    """Write three texts on one line; the one in the middle is as large as the others leave room for."""
    left, middle, right = texts
    beside = max(_text_width(left, TEXT_SIZE), _text_width(right, TEXT_SIZE))
    room = width - 2 * (MARGIN + beside + MARGIN)
    _draw_text(draw, left, (MARGIN, baseline), 0, TEXT_SIZE)
    _draw_text(draw, middle, (width // 2, baseline), 0.5, _fitting_size(middle, room))
    _draw_text(draw, right, (width - MARGIN, baseline), 1, TEXT_SIZE)


def _colors(anchors: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Interpolate the anchors at `strength` [H, W], 0 to 1; returns [H, W, 3]."""
    steps = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(strength, steps, channel) for channel in anchors.T], axis=-1)


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
