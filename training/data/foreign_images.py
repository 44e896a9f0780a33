"""Images that are no upright brain MRI, made by code: what the gate of a checkpoint is fitted and measured on.

Every kind is a function of a random generator; kinds made of scans take some of them as well. Kinds that resemble each
other belong to one family, so that a gate can be measured on images unlike all that it was fitted on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter, map_coordinates

from training.data.drawn_medicine import (
    abdomen_mri,
    body_ct,
    bone_xray,
    chest_xray,
    head_ct,
    head_ct_of_scan,
    joint_mri,
    skull_xray,
    spine_mri,
    ultrasound,
)
from training.data.drawn_photos import (
    cells,
    chart,
    document,
    drawing,
    leaves,
    noise,
    pattern,
    scene,
    screenshot,
    texture,
    thing,
)
from training.data.shapes import (
    SIDE,
    Random,
    field,
    image,
    some_scan,
)


@dataclass(frozen=True)
class Kind:
    """One kind of foreign image: `make` a gray one from a generator and some scans; the `family` that it belongs to."""

    family: str
    make: Callable[[Random, Sequence[Image.Image]], Image.Image]


def foreign_images(
    scans: Sequence[Image.Image], count: int, seed: int = 0, kinds: Sequence[str] | None = None
) -> dict[str, list[Image.Image]]:
    """Make `count` images of each kind; the same seed and scans give the same images.

    Args:
        scans: Gray brain scans, some of which are changed into foreign images.
        count: Images of each kind.
        seed: Seed of all randomness.
        kinds: Which of `KINDS`; all if None.

    Returns:
        {kind: gray images of different sizes}.
    """
    made = {}
    for number, kind in enumerate(KINDS):
        if kinds is None or kind in kinds:
            random = np.random.default_rng([seed, number])
            made[kind] = [KINDS[kind].make(random, scans) for _ in range(count)]
    return made


# Scans that are no longer upright brain scans


def inverted(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A scan as its negative."""
    return ImageOps.invert(some_scan(random, scans))


def upside_down(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A scan upside down."""
    return ImageOps.flip(some_scan(random, scans))


def lying(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A scan on its side."""
    return some_scan(random, scans).rotate(random.choice([90, 270]), expand=True)


def sheet(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """Many scans on one sheet."""
    rows, columns = random.integers(2, 6, 2)
    side = 320 // max(rows, columns)
    page = Image.new("L", (int(columns * side), int(rows * side)))
    for row in range(rows):
        for column in range(columns):
            page.paste(some_scan(random, scans).resize((side, side)), (int(column * side), int(row * side)))
    return page


def blurred(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A scan too blurred to show anything."""
    scan = some_scan(random, scans)
    return scan.filter(ImageFilter.GaussianBlur(random.uniform(0.05, 0.12) * max(scan.size)))


def scrambled(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A scan whose pieces are in another order."""
    count = int(random.integers(2, 9))
    side = SIDE // count
    pixels = np.asarray(some_scan(random, scans).resize((side * count, side * count)))
    pieces = pixels.reshape(count, side, count, side).swapaxes(1, 2).reshape(-1, side, side)
    pieces = random.permutation(pieces).reshape(count, count, side, side)
    return Image.fromarray(np.ascontiguousarray(pieces.swapaxes(1, 2)).reshape(side * count, side * count))


def warped(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """A scan bent out of shape, filled with something else."""
    scan = np.asarray(some_scan(random, scans).resize((SIDE, SIDE)), dtype=float) / 255
    y, x = np.mgrid[:SIDE, :SIDE]
    bend = random.uniform(15, 40)
    moved = [y + bend * gaussian_filter(field(random, 2), 8) * 2, x + bend * gaussian_filter(field(random, 2), 8) * 2]
    return image(map_coordinates(scan, moved, order=1, mode="nearest"))


def filled_head(random: Random, scans: Sequence[Image.Image]) -> Image.Image:
    """The outline of a scan with a photograph or a texture inside: no brain, though framed like one."""
    scan = some_scan(random, scans).resize((SIDE, SIDE))
    head = gaussian_filter((gaussian_filter(np.asarray(scan) / 255.0, 4) > 0.08).astype(float), 2)
    inside = (leaves, texture, noise, pattern)[random.integers(4)](random, scans)
    return image(head * np.asarray(inside, dtype=float) / 255)


KINDS = {
    **{make.__name__: Kind("photograph", make) for make in (leaves, thing, scene)},
    **{make.__name__: Kind("texture", make) for make in (noise, texture, pattern, cells)},
    **{make.__name__: Kind("document", make) for make in (document, drawing, screenshot, chart)},
    **{make.__name__: Kind("X-ray", make) for make in (chest_xray, bone_xray, skull_xray)},
    **{make.__name__: Kind("head CT", make) for make in (head_ct, head_ct_of_scan)},
    "ultrasound": Kind("ultrasound", ultrasound),
    **{make.__name__: Kind("other organ", make) for make in (body_ct, abdomen_mri, joint_mri, spine_mri)},
    **{make.__name__: Kind("turned", make) for make in (upside_down, lying)},
    "inverted": Kind("inverted", inverted),
    **{make.__name__: Kind("damaged", make) for make in (sheet, blurred, scrambled, warped, filled_head)},
}
