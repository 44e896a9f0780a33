"""An attribution is drawn on the view it belongs to: numbers become colours, with a bar that says what they mean."""

from math import ceil, isfinite

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_SIDE = 480
BAR_HEIGHT = 88
# The two bright arms of "managua", from Fabio Crameri's Scientific Colour Maps (MIT, doi 10.5281/zenodo.1243862), weak
# to strong: of equal lightness, told apart by colour-blind eyes too. Its dark middle is where the scan shows instead.
AGAINST = np.array([(95, 137, 195), (111, 182, 226), (129, 231, 255)])
FOR = np.array([(193, 116, 73), (224, 159, 87), (255, 207, 103)])


def overlay(
    view: Image.Image,
    attribution: np.ndarray,
    scale: float,
    opacity: float = 0.7,
    unit: str = "logits",
    *,
    signed: bool = True,
    outline: bool = False,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Draw an attribution on its view, a colour bar below; RGB, the view enlarged to at least 480 x 480 pixels.

    `attribution` [H, W] is as large as the view: > 0 speaks for the label and turns amber, < 0 against and turns blue,
    0 leaves the scan as it is. `scale` (> 0, in `unit`) is the evidence drawn in full colour; stronger evidence looks
    the same. `opacity` is that of full colour, 0 to 1. The bar of a map that is not `signed` begins at 0. `outline`
    draws a line around the evidence for the label that reaches half of `scale`; `box` (x_min, y_min, x_max, y_max, in
    fractions of width and height) draws a given box, a tumour's say. Raises `ValueError`.
    """
    width, height = view.size
    if attribution.shape != (height, width):
        raise ValueError(f"The attribution has shape {attribution.shape}, the view ({height}, {width}).")
    if not np.isfinite(attribution).all():
        raise ValueError("The attribution holds values that are not finite.")
    factor = ceil(MIN_SIDE / min(view.size))
    size = (width * factor, height * factor)
    scan = np.asarray(view.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    evidence = np.asarray(Image.fromarray(attribution.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    bar = colour_bar(size[0], scale, opacity, unit, signed)  # refuses a bad scale or opacity
    picture = Image.new("RGB", (size[0], size[1] + bar.height))
    drawn = _blend(scan, evidence / scale, opacity)
    if outline:
        # At a level fixed for all pictures: a map of weak evidence gets no outline, instead of one around its noise.
        _draw_line(drawn, _edge(evidence >= scale / 2))
    if box is not None:
        _draw_line(drawn, _edge(_inside(box, size)))
    picture.paste(Image.fromarray(drawn), (0, 0))
    picture.paste(bar, (0, size[1]))
    return picture


def colour_bar(
    width: int, scale: float, opacity: float = 0.7, unit: str = "logits", signed: bool = True
) -> Image.Image:
    """Draw the legend of an overlay, `width` x 88 pixels: -scale (or 0) to +scale as it looks on dark grey tissue.

    Raises `ValueError`.
    """
    if not (scale > 0 and isfinite(scale)):
        raise ValueError(f"The scale must be a positive number, got {scale}.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"The opacity must lie between 0 and 1, got {opacity}.")
    margin, top, bottom = 16, 12, 32
    evidence = np.linspace(-1 if signed else 0, 1, width - 2 * margin)[None].repeat(bottom - top, axis=0)
    tissue = np.full((*evidence.shape, 3), 64, dtype=np.uint8)
    bar = Image.new("RGB", (width, BAR_HEIGHT))
    bar.paste(Image.fromarray(_blend(tissue, evidence, opacity)), (margin, top))
    draw = ImageDraw.Draw(bar)
    weakest = (f"-{scale:.2g}", "against") if signed else ("0", "none")
    for x, align, number, word, room in (
        (margin, "l", *weakest, width),
        (width // 2, "m", "0" if signed else "", unit, width - 2 * margin - 140),  # beside the words at the ends
        (width - margin, "r", f"+{scale:.2g}", "for", width),
    ):
        draw.text((x, bottom + 6), number, font=ImageFont.load_default(size=20), anchor=f"{align}t")
        draw.text((x, bottom + 30), word, font=_fitting(word, room), anchor=f"{align}t")
    return bar


def _fitting(text: str, room: int) -> ImageFont.FreeTypeFont:
    """Return the largest font, up to 20 pixels, in which a text takes no more than `room` pixels, but a legible one."""
    sizes = (ImageFont.load_default(size=size) for size in range(20, 11, -1))
    return next((font for font in sizes if font.getlength(text) <= room), ImageFont.load_default(size=12))


def _blend(scan: np.ndarray, evidence: np.ndarray, opacity: float) -> np.ndarray:
    """Colour a scan, uint8 [H, W, 3], by evidence [H, W], full at -1 and 1; the stronger, the less of it shows."""
    strength = np.abs(evidence).clip(max=1)
    colour = np.where(evidence[..., None] > 0, _colours(FOR, strength), _colours(AGAINST, strength))
    alpha = opacity * strength[..., None]
    return (scan * (1 - alpha) + colour * alpha).round().astype(np.uint8)


def _draw_line(picture: np.ndarray, line: np.ndarray) -> None:
    """Draw the pixels of `line`, bool [H, W], on a picture, uint8 [H, W, 3]: white in black, to show on any ground."""
    thick = _grown(line)
    picture[_grown(_grown(thick))] = 0
    picture[thick] = 255


def _edge(region: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of a region, bool [H, W]; the border of the picture is no edge."""
    return region & _grown(~region)


def _grown(region: np.ndarray) -> np.ndarray:
    """Add the four neighbours of every pixel of a region, bool [H, W]."""
    grown = region.copy()
    grown[1:] |= region[:-1]
    grown[:-1] |= region[1:]
    grown[:, 1:] |= region[:, :-1]
    grown[:, :-1] |= region[:, 1:]
    return grown


def _inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Return where a picture of `size` (width, height) is inside a box, bool [H, W]."""
    x_min, y_min, x_max, y_max = box
    if not (x_min < x_max and y_min < y_max):
        raise ValueError(f"A box needs x_min < x_max and y_min < y_max, got {box}.")
    columns, rows = ((np.arange(side) + 0.5) / side for side in size)
    return ((rows >= y_min) & (rows <= y_max))[:, None] & ((columns >= x_min) & (columns <= x_max))


def _colours(anchors: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return the colours [H, W, 3] at `strength` [H, W], 0 to 1, on the line through the anchors."""
    steps = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(strength, steps, channel) for channel in anchors.T], axis=-1)
