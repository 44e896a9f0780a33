"""Changes of a scan that leave the diagnosis as it is, each at several levels, and where its pixels go."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

# Points [n, 2], x and y in fractions of width and height.
Points = np.ndarray


def _stays(points: Points, level: float, size: tuple[int, int]) -> Points:
    return points


@dataclass(frozen=True)
class Change:
    """One kind of change.

    Attributes:
        unit: Of the levels, for people.
        levels: From weak to strong.
        apply: Changes a gray image, given a level and a source of randomness.
        move: Tells where points of the image, in fractions, lie in the changed one, given the level and its size.
    """

    unit: str
    levels: Sequence
    apply: Callable[[Image.Image, float, np.random.Generator], Image.Image]
    move: Callable[[Points, float, tuple[int, int]], Points] = _stays


def _rotate(image: Image.Image, degrees: float, random: np.random.Generator) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BICUBIC)


def _move_rotated(points: Points, degrees: float, size: tuple[int, int]) -> Points:
    angle = np.deg2rad(degrees)  # counterclockwise, while y points down
    x, y = ((points - 0.5) * size).T
    turned = np.stack([x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)], axis=1)
    return turned / size + 0.5


def _margins(image: Image.Image, share: float) -> tuple[int, int]:
    return round(share * image.width), round(share * image.height)


def _crop(image: Image.Image, share: float, random: np.random.Generator) -> Image.Image:
    return ImageOps.crop(image, _margins(image, share) * 2)


def _pad(image: Image.Image, share: float, random: np.random.Generator) -> Image.Image:
    return ImageOps.expand(image, _margins(image, share) * 2, fill=0)


def _gain(image: Image.Image, factor: float, random: np.random.Generator) -> Image.Image:
    return image.point(lambda value: min(round(factor * value), 255))


def _contrast(image: Image.Image, factor: float, random: np.random.Generator) -> Image.Image:
    return image.point(lambda value: min(max(round(128 + factor * (value - 128)), 0), 255))


def _add_noise(image: Image.Image, deviation: float, random: np.random.Generator) -> Image.Image:
    noisy = np.asarray(image, dtype=np.float32) + random.normal(0, deviation, (image.height, image.width))
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))


def _blur(image: Image.Image, share: float, random: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(share * max(image.size)))


def _compress(image: Image.Image, quality: int, random: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("L")


def _write(image: Image.Image, lines: int, random: np.random.Generator) -> Image.Image:
    """Write lines of white letters and digits as scanners do: down the left side, then the right one."""
    written = image.copy()
    draw, height = ImageDraw.Draw(written), image.height / 18
    font = ImageFont.load_default(0.8 * height)
    for line in range(lines):
        text = "".join(random.choice(list("ABCDEFHLMNPRST0123456789.:")) for _ in range(10))
        column, row = divmod(line, 16)
        place = (0.02 * image.width, (row + 0.5) * height) if column == 0 else (0.6 * image.width, (row + 0.5) * height)
        draw.text(place, text, fill=255, font=font)
    return written


MIRRORS = {
    "left-right": (Image.Transpose.FLIP_LEFT_RIGHT, (True, False)),
    "upside down": (Image.Transpose.FLIP_TOP_BOTTOM, (False, True)),
    "both": (Image.Transpose.ROTATE_180, (True, True)),
}


def _mirror(image: Image.Image, axes: str, random: np.random.Generator) -> Image.Image:
    return image.transpose(MIRRORS[axes][0])


def _move_mirrored(points: Points, axes: str, size: tuple[int, int]) -> Points:
    return np.where(MIRRORS[axes][1], 1 - points, points)


CHANGES = {
    "rotation": Change("degrees", (5, 15, 30, 90), _rotate, _move_rotated),
    "crop": Change(
        "share of each side cut off",
        (0.03, 0.06, 0.1, 0.15),
        _crop,
        lambda points, share, size: (points - share) / (1 - 2 * share),
    ),
    "padding": Change(
        "share added on each side",
        (0.1, 0.25, 0.5, 1.0),
        _pad,
        lambda points, share, size: (points + share) / (1 + 2 * share),
    ),
    "brightness": Change("factor", (0.3, 0.6, 1.5, 2.5), _gain),
    "contrast": Change("factor around mid-gray", (0.3, 0.6, 1.5, 2.5), _contrast),
    "noise": Change("deviation in gray levels", (5, 10, 20, 40), _add_noise),
    "blur": Change("sigma, share of the longer side", (0.0025, 0.005, 0.01, 0.02), _blur),
    "JPEG": Change("quality", (95, 50, 25, 10, 5), _compress),
    "text": Change("lines", (1, 4, 12, 32), _write),
    "mirror": Change("axes", tuple(MIRRORS), _mirror, _move_mirrored),
}
