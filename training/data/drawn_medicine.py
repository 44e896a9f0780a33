"""X-rays, CT, ultrasound and magnetic resonance of other organs, made by code."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from training.data.shapes import (
    SIDE,
    Random,
    blob,
    field,
    grid,
    image,
    soft,
    some_scan,
    turned,
    upright,
    zoomed,
)

# X-rays, CT, ultrasound


def chest_xray(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Two dark lungs beside a bright spine and heart, crossed by ribs; no black surround."""
    y, x = grid()
    values = 0.75 - 0.15 * np.abs(x) + 0.04 * field(random, 2.5)
    width, gap = random.uniform(0.3, 0.4), random.uniform(0.38, 0.48)
    for side in (-1, 1):
        lung = soft(upright(y, x, (random.normal(-0.05, 0.04), side * gap), (random.uniform(0.6, 0.85), width)), 0.2)
        values = values * (1 - lung) + random.uniform(0.15, 0.35) * lung
    ribs = np.sin(random.uniform(18, 28) * (y - random.uniform(0.25, 0.5) * np.abs(x) ** 1.5) + random.uniform(0, 6))
    values = values + 0.08 * np.clip(ribs, 0, 1) * (np.abs(x) < 0.85) + 0.15 * np.exp(-((x / 0.12) ** 2))
    heart = soft(upright(y, x, (0.3, random.uniform(0.1, 0.25)), (0.35, random.uniform(0.25, 0.4))), 0.25)
    values = np.maximum(values, 0.75 * heart) + 0.01 * random.normal(size=values.shape)
    arms = np.abs(x) > random.uniform(0.85, 1.2) + 0.15 * y
    values = np.where(arms, random.uniform(0, 0.4), values)
    return zoomed(random, gaussian_filter(values, 1))


def bone_xray(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Long bones with bright walls and wide ends in soft tissue: arms, legs, hands."""
    y, x = grid()
    bones = int(random.choice([1, 2, 2, 3, 5]))
    values = np.full_like(y, random.choice([0.0, random.uniform(0, 0.3)]))
    spread, tilt = random.uniform(0.5, 0.9), random.normal(0, 0.25)
    x = x + tilt * y
    tissue = soft(spread * 1.2 - np.abs(x) - 0.1 * np.cos(3 * y + random.uniform(0, 6)), 0.15)
    values = values + random.uniform(0.15, 0.4) * tissue
    for center in np.linspace(-spread, spread, 2 * bones + 1)[1::2]:
        joint = random.uniform(-0.6, 0.6)
        wide = spread / bones * (0.35 + 0.25 * np.exp(-(((y - joint) / 0.15) ** 2)))
        depth = wide - np.abs(x - center)
        wall = np.exp(-((depth / (0.25 * wide)) ** 2))
        bone = soft(depth, 0.03) * (0.35 + 0.35 * wall) * (np.abs(y - joint) > random.uniform(0.01, 0.03))
        values = values + bone
    values = gaussian_filter(values, 1) + 0.01 * random.normal(size=values.shape)
    return turned(random, image(values))


def skull_xray(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A skull from the side or front: a bright shell over a gray field, dense teeth and base, dark sinuses."""
    y, x = grid()
    depth = upright(y, x, (random.normal(-0.15, 0.05), random.normal(0, 0.1)), tuple(random.uniform(0.6, 0.9, 2)))
    values = 0.35 * soft(depth, 0.1) + 0.4 * np.exp(-((depth / 0.06) ** 2)) + 0.04 * field(random, 2.5)
    for _ in range(random.integers(6, 16)):
        center = (random.uniform(0.1, 0.8), random.uniform(-0.5, 0.5))
        mask = soft(blob(random, center, tuple(random.uniform(0.05, 0.25, 2))), 0.2)
        values = values + random.choice([-0.25, 0.3]) * mask
    neck = soft(0.3 - np.abs(x + 0.2), 0.1) * (y > 0.4)
    return zoomed(random, gaussian_filter(values + 0.3 * neck, 1))


def head_ct(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A closed, very bright skull around flat gray tissue with dark ventricles."""
    y, x = grid()
    radii = random.uniform(0.7, 0.92), random.uniform(0.55, 0.78)
    depth = upright(y, x, tuple(random.normal(0, 0.03, 2)), radii)
    depth = depth + 0.02 * random.normal() * np.cos(2 * np.arctan2(y, x)) + 0.015 * random.normal() * np.cos(3 * x)
    thickness, skin = random.uniform(0.06, 0.12), random.uniform(0.02, 0.06)
    brain = random.uniform(0.3, 0.55) + random.uniform(0.01, 0.03) * field(random, random.uniform(0, 1.5))
    for center in ((-0.15, -0.12), (-0.15, 0.12), (0.2, -0.12), (0.2, 0.12)):
        ventricle = blob(random, center, (random.uniform(0.03, 0.1), random.uniform(0.08, 0.2)))
        brain = brain - 0.15 * soft(ventricle, 0.1) * (random.random() < 0.7)
    values = np.where(depth > skin + thickness, brain, np.where(depth > skin, 1.0, 0.25 * (depth > 0)))
    if random.random() < 0.3:
        table = np.abs(np.hypot(x, y + 1.4) - random.uniform(2.2, 2.35)) < 0.02
        values = np.maximum(values, 0.5 * table)
    return image(gaussian_filter(values, random.uniform(0.6, 1.4)))


def head_ct_of_scan(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A scan with the contrast of a CT: its head's outline, a bright skull inside, nearly flat tissue."""
    scan = some_scan(random, scans).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(scan, dtype=float) / 255
    head = gaussian_filter((gaussian_filter(pixels, 3) > 0.08).astype(float), 8)
    skull = (head > 0.5) & (head < random.uniform(0.7, 0.9))
    flat = random.uniform(0.3, 0.55) + random.uniform(0.05, 0.2) * (gaussian_filter(pixels, 1.5) - 0.4)
    values = np.where(head >= 0.5, np.where(skull, 1.0, flat), 0.0) + 0.015 * random.normal(size=pixels.shape)
    return image(gaussian_filter(values, 0.8) * (head > 0.3))


def body_ct(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A slice of the trunk: flat organs, very bright bones, black lungs or bowel gas."""
    return image(_trunk(random, bone=1.0, fat=random.uniform(0.15, 0.3), marrow=0.9))


def ultrasound(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A fan of speckle on black, or a rectangle of it."""
    y, x = grid()
    depth, angle = np.hypot(y + random.uniform(1.1, 1.6), x), np.arctan2(x, y + random.uniform(1.1, 1.6))
    near, far, half = random.uniform(0.15, 0.5), random.uniform(1.9, 2.5), random.uniform(0.4, 0.75)
    inside = (depth > near) & (depth < far) & (np.abs(angle) < half)
    if random.random() < 0.25:
        inside = (np.abs(x) < random.uniform(0.6, 1)) & (y > -0.95)
    tissue = gaussian_filter(field(random, 2.8), 2) * 0.35 + random.uniform(0.2, 0.5)
    for _ in range(random.integers(0, 4)):
        hole = soft(blob(random, tuple(random.uniform(-0.5, 0.6, 2)), tuple(random.uniform(0.08, 0.4, 2))), 0.1)
        tissue = tissue * (1 - hole * random.uniform(0.5, 1))
    speckle = np.abs(gaussian_filter(random.normal(size=y.shape), (random.uniform(0.5, 1), random.uniform(1, 3))))
    values = np.clip(tissue, 0.02, None) * (speckle / speckle.mean()) ** random.uniform(0.5, 1)
    return image(np.where(inside, values * random.uniform(0.6, 1.1), 0))


# Magnetic resonance of other organs


def abdomen_mri(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A slice of the trunk: a rim of fat, organs, vessels and a vertebra, no bright bone."""
    values = _trunk(random, bone=0.15, fat=random.uniform(0.5, 1), marrow=random.uniform(0.3, 0.6))
    y, x = grid()
    bias = 1 + 0.4 * random.normal() * x + 0.4 * random.normal() * y
    return image(values * bias + 0.02 * np.abs(random.normal(size=values.shape)))


def _trunk(random: Random, bone: float, fat: float, marrow: float) -> np.ndarray:
    """Return a slice of a trunk, lying, wider than high; brightness of bone, fat and marrow as given."""
    y, x = grid()
    radii = random.uniform(0.5, 0.75), random.uniform(0.8, 1.02)
    body = upright(y, x, tuple(random.normal(0, 0.04, 2)), radii)
    rim = random.uniform(0.04, 0.22)
    values = np.where(body > rim, random.uniform(0.2, 0.45), fat) * soft(body, 0.02)
    for _ in range(random.integers(4, 14)):
        center = random.uniform(-0.6, 0.6, 2) * radii
        organ = soft(blob(random, tuple(center), tuple(random.uniform(0.06, 0.35, 2) * radii)), 0.06) * (body > rim)
        level = random.choice([0.0, random.uniform(0.2, 0.9), random.uniform(0.3, 0.6)])
        values = values * (1 - organ) + level * organ
    spine = soft(upright(y, x, (0.6 * radii[0], 0), (random.uniform(0.1, 0.18),) * 2), 0.08)
    values = values * (1 - spine) + marrow * spine
    ribs = (np.abs(body - rim - 0.03) < 0.03) & (np.sin(random.integers(10, 22) * np.arctan2(y, x)) > 0.2)
    values = np.where(ribs, bone, values)
    return gaussian_filter(values + 0.02 * field(random, 1.5) * (body > 0), random.uniform(0.5, 1.2))


def joint_mri(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A knee, shoulder or ankle: two rounded bones with a dark rim and a gap, muscle and fat around them."""
    y, x = grid()
    limb = random.uniform(0.6, 1.1) - np.abs(x + 0.1 * np.sin(2 * y + random.uniform(0, 6)))
    values = (random.uniform(0.2, 0.5) + 0.05 * field(random, 2.5)) * soft(limb, 0.04)
    values = np.where((limb > 0) & (limb < random.uniform(0.05, 0.25)), random.uniform(0.3, 0.9), values)
    gap, marrow = random.uniform(0.02, 0.08), random.uniform(0.4, 0.9)
    for side in (-1, 1):
        end = upright(y, x, (side * (0.3 + gap), random.normal(0, 0.05)), (0.3, random.uniform(0.4, 0.6)))
        shaft = np.minimum(random.uniform(0.2, 0.35) - np.abs(x), side * y - 0.3)
        depth = np.maximum(end, shaft)
        bone = soft(depth, 0.03)
        values = values * (1 - bone) + marrow * bone * (1 + 0.08 * field(random, 2))
        values = np.where(np.abs(depth) < 0.02, 0.05, values)
    for _ in range(random.integers(1, 5)):
        spot = soft(blob(random, tuple(random.uniform(-0.8, 0.8, 2)), tuple(random.uniform(0.05, 0.3, 2))), 0.05)
        values = values * (1 - spot) + random.choice([0.05, 0.8, 0.4]) * spot * (limb > 0)
    return turned(random, image(gaussian_filter(values, random.uniform(0.5, 1.2))), often=0.3)


def spine_mri(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A column of vertebrae and disks beside the bright or dark cord, seen from the side."""
    y, x = grid()
    x = x + 0.15 * np.sin(random.uniform(1, 2.5) * y + random.uniform(0, 6)) + random.normal(0, 0.1)
    count, half = random.uniform(5, 9), random.uniform(0.13, 0.22)
    phase = (y * count / 2 + random.random()) % 1
    vertebra = (np.abs(x + 0.15) < half) & (phase > 0.18)
    disk = (np.abs(x + 0.15) < half) & (phase <= 0.18)
    values = random.uniform(0.1, 0.5) + 0.08 * field(random, 2.8)
    values = np.where(x > 0.3 + half, random.uniform(0.2, 0.9) - 0.3 * np.abs(x - 0.6), values)
    values = np.where(vertebra, random.uniform(0.35, 0.7), values)
    values = np.where(disk, random.uniform(0.1, 0.9), values)
    canal = np.abs(x - 0.15 - half + 0.1) < 0.08
    values = np.where(canal, random.uniform(0.1, 1), values)
    cord = np.abs(x - 0.15 - half + 0.1) < 0.035
    values = np.where(cord, random.uniform(0.2, 0.6), values)
    fade = np.exp(-((np.abs(x) / random.uniform(0.6, 1.3)) ** 4)) if random.random() < 0.5 else 1.0
    values = gaussian_filter(values * fade, random.uniform(0.6, 1.5)) + 0.015 * random.normal(size=values.shape)
    narrow = int(SIDE * random.uniform(0.5, 1))
    return image(values).crop(((SIDE - narrow) // 2, 0, (SIDE + narrow) // 2, SIDE))
