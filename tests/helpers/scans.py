"""Small synthetic scans for tests: a head with a bright mark whose position depends on the class."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

LABELS = ("glioma", "meningioma", "notumor", "pituitary")
MARKS = {"glioma": (20, 24), "meningioma": (44, 16), "pituitary": (32, 46)}


def make_scan(label: str, seed: int, side: int = 64) -> Image.Image:
    """Return a gray image; the same label and seed give the same image."""
    random = np.random.default_rng([LABELS.index(label), seed])
    image = Image.new("L", (64, 64))
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = np.array((8, 4, 56, 60)) + random.integers(-3, 4, size=4)
    draw.ellipse((left, top, right, bottom), fill=int(random.integers(60, 110)), outline=200, width=2)
    for x, y, width, height in random.integers((14, 12, 3, 3), (46, 48, 16, 16), size=(14, 4)):
        draw.ellipse((x, y, x + width, y + height), fill=int(random.integers(10, 170)))
    if label in MARKS:
        x, y = random.integers(-3, 4, size=2) + MARKS[label]
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=245)
    noisy = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), dtype=float) + random.normal(0, 6, (64, 64))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


def write_scans(root: Path, train: int = 12, test: int = 4) -> Path:
    """Write Training/<class> and Testing/<class> with `train` and `test` different PNG images per class."""
    for folder, seeds in (("Training", range(train)), ("Testing", range(train, train + test))):
        for label in LABELS:
            (root / folder / label).mkdir(parents=True, exist_ok=True)
            for seed in seeds:
                make_scan(label, seed).save(root / folder / label / f"{label}_{seed:03d}.png")
    return root
