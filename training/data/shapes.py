"""Fields of noise, soft shapes and surfaces: what images made by code are drawn with."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Random = np.random.Generator
# Images are made in this size, in pixels; some are cropped afterwards.
SIDE = 160


def grid(height: int = SIDE, width: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x of each pixel, from -1 to 1."""
    return np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")


def field(random: Random, exponent: float, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Return noise whose power falls with frequency to the `exponent`, mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(random.normal(size=(height, width))) * frequency ** (-exponent / 2)
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (height, width))
    return field / field.std()


def blob(random: Random, center: tuple[float, float], radii: tuple[float, float], rough: float = 0.08) -> np.ndarray:
    """Return the signed depth of each pixel in a rough, turned ellipse: > 0 inside, 1 at its center."""
    y, x = grid()
    turn = random.uniform(0, np.pi)
    dy, dx = y - center[0], x - center[1]
    along, across = np.cos(turn) * dx + np.sin(turn) * dy, -np.sin(turn) * dx + np.cos(turn) * dy
    angle = np.arctan2(across, along)
    edge = 1 + sum(rough / n * random.normal() * np.cos(n * angle + random.uniform(0, 6.3)) for n in (2, 3, 4, 5))
    return 1 - np.hypot(along / radii[0], across / radii[1]) / np.maximum(edge, 0.2)


def upright(y: np.ndarray, x: np.ndarray, center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """Return the signed depth of each pixel in an ellipse that is not turned."""
    return 1 - np.hypot((y - center[0]) / radii[0], (x - center[1]) / radii[1])


def outline(random: Random, center: np.ndarray, radius: float, rough: float) -> Image.Image:
    """Return the mask of a rough, turned ellipse or of a polygon, in pixels."""
    angle = np.linspace(0, 2 * np.pi, int(random.choice([4, 5, 24])), endpoint=False)
    reach = radius * (1 + rough * random.uniform(-1, 1, len(angle)))
    turn, flat = random.uniform(0, np.pi), random.uniform(0.3, 1)
    x, y = reach * np.cos(angle), flat * reach * np.sin(angle)
    points = np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y], axis=1) + center
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points], fill=255)
    return mask


def soft(depth: np.ndarray, width: float = 0.03) -> np.ndarray:
    """Return 0 outside to 1 inside, with a soft edge."""
    return np.clip(depth / width + 0.5, 0, 1)


def image(values: np.ndarray) -> Image.Image:
    """Return values from 0 (black) to 1 (white) as a gray image."""
    return Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))


def toned(random: Random, values: np.ndarray) -> Image.Image:
    """Return values of any range as a gray image of random brightness and contrast."""
    low, high = np.percentile(values, (1, 99))
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1) ** np.exp(random.normal(0, 0.4))
    black, white = random.uniform(0, 0.25), random.uniform(0.7, 1)
    return image(black + (white - black) * scaled)


def shaded(random: Random) -> np.ndarray:
    """Return a surface of one brightness, with a gradient and grain, or striped."""
    y, x = grid()
    angle, level = random.uniform(0, 6.3), random.uniform(0, 1)
    slope = random.normal(0, 0.15) * (np.cos(angle) * x + np.sin(angle) * y)
    grain = random.exponential(0.06) * field(random, random.uniform(0.5, 3))
    if random.random() < 0.15:
        waves = np.sin(random.uniform(8, 60) * (np.cos(angle) * x + np.sin(angle) * y))
        grain = grain + random.uniform(0.05, 0.3) * waves
    return level + slope + grain


def zoomed(random: Random, values: np.ndarray) -> Image.Image:
    """Return a random crop, as wide as high or not."""
    keep = random.uniform(0.7, 1, 2)
    top, left = ((1 - keep) * random.random(2) * SIDE).astype(int)
    height, width = (keep * SIDE).astype(int)
    return toned(random, values[top : top + height, left : left + width])


def turned(random: Random, image: Image.Image, often: float = 0.7) -> Image.Image:
    return image.rotate(random.uniform(0, 360)) if random.random() < often else image


def some_scan(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    return scans[random.integers(len(scans))]
