"""Drawings of a head, for tests and where a checkpoint brings no cases."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 256
# (caption, (x, y, radius) of the bright spot as fractions of the side)
PHANTOMS = (
    ("synthetic phantom: no spot", None),
    ("synthetic phantom: spot on the left", (0.32, 0.42, 0.07)),
    ("synthetic phantom: spot in the middle", (0.5, 0.62, 0.04)),
)


def phantoms() -> list[tuple[str, Image.Image]]:
    """Return (caption, image) pairs; each image (mode "L", 256 x 256) also says in writing that it is synthetic."""
    return [(caption, _draw(spot)) for caption, spot in PHANTOMS]


def _draw(spot: tuple[float, float, float] | None) -> Image.Image:
    image = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, width: float, height: float, gray: int) -> None:
        box = [x - width, y - height, x + width, y + height]
        draw.ellipse([round(SIDE * edge) for edge in box], fill=gray)

    ellipse(0.5, 0.47, 0.37, 0.43, 190)  # scalp
    ellipse(0.5, 0.47, 0.355, 0.415, 25)  # skull
    ellipse(0.5, 0.47, 0.32, 0.38, 105)  # brain
    draw.line([SIDE // 2, round(0.1 * SIDE), SIDE // 2, round(0.84 * SIDE)], fill=60, width=2)
    for side in (-1, 1):  # ventricles
        ellipse(0.5 + side * 0.05, 0.4, 0.035, 0.1, 35)
        ellipse(0.5 + side * 0.08, 0.54, 0.03, 0.06, 35)
    if spot:
        x, y, radius = spot
        ellipse(x, y, radius, radius * 1.15, 225)
    image = image.filter(ImageFilter.GaussianBlur(1.5))
    values = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 6, values.shape) * (values > 10)
    image = Image.fromarray((values + noise).clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(image).text(
        (SIDE / 2, SIDE - 6), "synthetic phantom", fill=170, font=ImageFont.load_default(size=16), anchor="md"
    )
    return image
