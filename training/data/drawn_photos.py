"""Photographs, textures, drawings, documents and screens, made by code."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from training.data.shapes import (
    SIDE,
    Random,
    blob,
    field,
    grid,
    image,
    outline,
    shaded,
    soft,
    toned,
    upright,
)

# Photographs and textures


def leaves(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Shapes of all sizes that cover each other, shaded and grained, as in a photograph."""
    surfaces = [image(shaded(random)) for _ in range(8)]
    page = surfaces[0].copy()
    largest = random.uniform(0.2, 0.8)
    for _ in range(random.integers(20, 200)):
        # Small shapes are more frequent than large ones, as objects in photographs are.
        radius = SIDE / 2 * 0.03 * (1 - (1 - (0.03 / largest) ** 2) * random.random()) ** -0.5
        shape = outline(random, random.uniform(0, SIDE, 2), radius, rough=random.choice([0.0, 0.2, 0.5]))
        page.paste(surfaces[random.integers(1, 8)], mask=shape)
    return toned(random, gaussian_filter(np.asarray(page, dtype=float), random.uniform(0, 1.2)))


def thing(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A few parts in the middle of a plain, graded or blurred background, which may be black or white."""
    background = (np.zeros((SIDE, SIDE)), np.ones((SIDE, SIDE)), shaded(random), field(random, 3.0) / 6 + 0.5)
    values = background[random.integers(4)]
    radius = random.uniform(0.4, 0.9)
    for size in (1.0, *random.uniform(0.1, 0.6, random.integers(1, 8))):
        center = tuple(random.uniform(-0.7, 0.7, 2) * radius * (1 - size))
        radii = (radius * size, radius * size * random.uniform(0.3, 1))
        mask = soft(blob(random, center, radii, rough=0.25), 0.04)
        values = values * (1 - mask) + shaded(random) * mask
    return image(values)


def scene(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A horizon, ground and sky, with upright things on it."""
    y, _ = grid()
    horizon = random.uniform(-0.5, 0.5)
    line = horizon + 0.1 * field(random, 3.0)[SIDE // 2][None] * random.random()
    values = np.where(y < line, shaded(random) + 0.3, shaded(random))
    for _ in range(random.integers(1, 9)):
        height, width = random.uniform(0.1, 0.9), random.uniform(0.02, 0.4)
        left, bottom = random.uniform(-1, 1), random.uniform(horizon, 1)
        box = soft(np.minimum(width - abs(grid()[1] - left), height - abs(y - bottom + height)), 0.02)
        values = values * (1 - box) + shaded(random) * box
    return toned(random, values)


def noise(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """White noise, in grains of any size."""
    side = int(2 ** random.uniform(3.5, 8))
    pixels = random.uniform(size=(side, side)) if random.random() < 0.5 else random.normal(0.5, 0.2, size=(side, side))
    filters = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    return image(pixels).resize((SIDE, SIDE), filters[random.integers(2)])


def texture(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Clouds and grain: noise with a falling spectrum, sometimes stretched into fibers."""
    values = field(random, random.uniform(0.8, 3.5))
    if random.random() < 0.4:
        values = gaussian_filter(values, (0, random.uniform(2, 15)))
    return toned(random, values)


def pattern(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Stripes, checks, rings, ramps and discs without any grain."""
    y, x = grid()
    angle, waves = random.uniform(0, 6.3), random.uniform(2, 40)
    along, across = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    disc = soft(upright(y, x, tuple(random.uniform(-0.3, 0.3, 2)), tuple(random.uniform(0.3, 1, 2))))
    options = (
        np.sin(waves * along),
        np.sign(np.sin(waves * along) * np.sin(waves * across)),
        np.sin(waves * np.hypot(x, y)),
        along,
        np.hypot(x, y),
        disc + 0 * x,
    )
    return toned(random, options[random.integers(len(options))])


def cells(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Cells with nuclei under a microscope, on a bright or dark ground."""
    page = image(random.uniform(0.6, 0.95) + 0.05 * field(random, 2))
    radius = SIDE * random.uniform(0.02, 0.1)
    body, nucleus = sorted(random.uniform(60, 220, 2), reverse=True)
    for _ in range(int(random.uniform(0.1, 0.6) * (SIDE / radius) ** 2 / 3) + 1):
        center = random.uniform(0, SIDE, 2)
        page.paste(int(body), mask=outline(random, center, radius * random.uniform(0.7, 1.3), rough=0.15))
        page.paste(int(nucleus), mask=outline(random, center, radius * random.uniform(0.3, 0.6), rough=0.1))
    values = gaussian_filter(np.asarray(page, dtype=float), random.uniform(0.5, 1.5))
    return toned(random, values * random.choice([1, -1]))


# Drawings, documents and screens


def _canvas(random: Random, dark: float = 0.2) -> tuple[Image.Image, ImageDraw.ImageDraw, int, int]:
    """Return an empty page, something to draw with, the color of the page and that of the ink."""
    paper, ink = int(random.uniform(215, 256)), int(random.uniform(0, 110))
    if random.random() < dark:
        paper, ink = 255 - paper, 255 - ink
    width, height = (int(SIDE * random.uniform(0.7, 1.4)) for _ in range(2))
    page = Image.new("L", (width, height), paper)
    return page, ImageDraw.Draw(page), paper, ink


def _write(random: Random, draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], ink: int) -> None:
    """Fill a box with lines of text."""
    size = int(random.uniform(7, 16))
    font, y = ImageFont.load_default(size=size), box[1]
    while y + size < box[3]:
        words, x = [], box[0]
        while x < box[2] - 3 * size:
            word = "".join(chr(97 + letter) for letter in random.integers(0, 26, random.integers(1, 10)))
            words.append(word)
            x += font.getlength(word + " ")
        draw.text((box[0], y), " ".join(words[: max(len(words) - random.integers(0, 3), 1)]), font=font, fill=ink)
        y += size * (1.25 if random.random() < 0.9 else 2.5)


def document(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A page of text, photographed or scanned."""
    page, draw, _, ink = _canvas(random, dark=0.1)
    width, height = page.size
    columns, margin = random.integers(1, 3), random.uniform(0.03, 0.12)
    for column in range(columns):
        left = width * (margin + column * (1 - margin) / columns)
        _write(random, draw, (left, height * margin, left + width * (1 - 2 * margin) / columns, height), ink)
    page = page.rotate(random.normal(0, 2), fillcolor=page.getpixel((0, 0)), resample=Image.Resampling.BICUBIC)
    shade = image(0.85 + 0.05 * random.random() * field(random, 3.0)).resize(page.size)
    return Image.fromarray((np.asarray(page) * (np.asarray(shade) / 255.0)).astype(np.uint8))


def drawing(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Lines, curves and outlines on paper or a blackboard."""
    page, draw, paper, ink = _canvas(random, dark=0.4)
    for _ in range(random.integers(3, 30)):
        center, spread = random.uniform(0, 1, 2), random.uniform(0.05, 0.4)
        steps = np.cumsum(random.normal(0, spread, (random.integers(2, 9), 2)), axis=0) * 0.5 + center
        points = [tuple(point * page.size) for point in steps]
        choice = random.integers(3)
        if choice == 0:
            draw.line(points, fill=ink, width=int(random.integers(1, 6)), joint="curve")
        elif choice == 1:
            (left, right), (top, bottom) = sorted((points[0][0], points[-1][0])), sorted((points[0][1], points[-1][1]))
            draw.ellipse((left, top, right + 1, bottom + 1), outline=ink, width=int(random.integers(1, 5)))
        else:
            fill = int(random.choice([paper, ink, random.integers(0, 256)]))
            draw.polygon([*points, points[0]], outline=ink, fill=fill)
    return page


def screenshot(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Windows, buttons and text on a screen, sometimes with a small picture."""
    page, draw, paper, ink = _canvas(random, dark=0.4)
    width, height = page.size
    draw.rectangle((0, 0, width, height * random.uniform(0.04, 0.12)), fill=int(random.integers(0, 256)))
    for _ in range(random.integers(2, 12)):
        left, top = random.uniform(0, 0.8) * width, random.uniform(0.1, 0.9) * height
        right, bottom = left + random.uniform(0.1, 0.6) * width, top + random.uniform(0.05, 0.5) * height
        draw.rectangle((left, top, right, bottom), fill=int(np.clip(paper + random.normal(0, 40), 0, 255)), outline=ink)
        if random.random() < 0.7:
            _write(random, draw, (left + 4, top + 3, right, bottom), ink)
    if random.random() < 0.3:
        picture = leaves(random, scans).resize((int(width * 0.3), int(height * 0.3)))
        page.paste(picture, (int(random.uniform(0, 0.7) * width), int(random.uniform(0.1, 0.7) * height)))
    return page


def chart(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Bars or curves with axes and labels."""
    page, draw, _, ink = _canvas(random)
    width, height = page.size
    left, bottom = 0.12 * width, 0.88 * height
    draw.line((left, 0.05 * height, left, bottom, 0.97 * width, bottom), fill=ink, width=2)
    count = int(random.integers(3, 25))
    xs = np.linspace(left, 0.95 * width, count + 1)
    bars = random.random() < 0.5
    for _ in range(1 if bars else random.integers(1, 5)):
        shade, tops = int(random.integers(0, 230)), bottom - random.uniform(0.02, 0.8, count) * height
        if bars:
            for x, top in zip(xs[:-1], tops, strict=True):
                draw.rectangle((x + 2, top, x + 0.75 * (xs[1] - xs[0]), bottom), fill=shade)
        else:
            draw.line(
                list(zip(xs[:-1], np.sort(tops)[::-1], strict=True)), fill=shade, width=int(random.integers(1, 4))
            )
    _write(random, draw, (left, 0.9 * height, width, height), ink)
    return page
