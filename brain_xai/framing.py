"""Every scan in the same frame: cropped to the head, padded to a square on black, intensities stretched."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from brain_xai.levels import LEVELS, counts_of, percentiles

# The version of this framing, recorded in checkpoints: a model must see what it was trained on.
FRAME_VERSION = 1
# The head is looked for at this size (longest side, in pixels): fine enough for a margin, too coarse for text.
COARSE_SIDE = 96
# Share of the head's longer side that is left free around it.
MARGIN = 0.03
# A part belongs to the head where it is at least this share of the largest part; text and specks are smaller.
PART_SHARE = 0.15
# Less than this share of the image is no head, nor is an image with fewer gray levels than this between its extremes.
HEAD_SHARE = 0.04
MIN_CONTRAST = 8
BRIGHT_PERCENTILE = 92
WHITE_PERCENTILE = 99.5
# Where no head is found, a smaller one is looked for by these: a scan on a page or screen that is otherwise empty.
SMALL_HEAD_SHARE, SMALL_BRIGHT_PERCENTILE = 0.004, 99.7


@dataclass(frozen=True)
class Framed:
    """A framed scan: `image` (gray, `side` x `side` pixels) and where it lies in the original.

    `left` and `top` are the pixel of the original at the frame's upper left corner; they are negative, and `left +
    side` or `top + side` exceed `original_size` (width, height), where the frame was padded.
    """

    image: Image.Image
    left: int
    top: int
    side: int
    original_size: tuple[int, int]

    @property
    def part(self) -> tuple[float, float, float, float]:
        """The part of the original that the frame shows: left, top, right, bottom in fractions of width and height."""
        width, height = self.original_size
        left, top, right, bottom = self.left, self.top, self.left + self.side, self.top + self.side
        return left / width, top / height, right / width, bottom / height

    def to_original(self, values: np.ndarray) -> np.ndarray:
        """Resample a map of the framed image to the original.

        Args:
            values: float32 [h, w], any size, covering the whole frame.

        Returns:
            float32 [H, W] of the original's height and width; 0 outside the frame.
        """
        width, height = self.original_size
        side = self.side
        resized = Image.fromarray(np.asarray(values, dtype=np.float32)).resize((side, side), Image.Resampling.BILINEAR)
        original = np.zeros((height, width), dtype=np.float32)
        x, y = max(self.left, 0), max(self.top, 0)
        right, bottom = min(self.left + side, width), min(self.top + side, height)
        inside = np.asarray(resized)[y - self.top : bottom - self.top, x - self.left : right - self.left]
        original[y:bottom, x:right] = inside
        return original


def frame(image: Image.Image) -> Framed:
    """Crop a scan to the head, pad it to a square on black and stretch its intensities.

    A model that always sees the same frame cannot tell one source of scans from another by margins and brightness.
    The frame depends on the head alone: padding, brightness and contrast change it little, and so does framing twice.
    An image without a recognizable head is padded and stretched as a whole.

    Args:
        image: A gray PIL image (mode "L") of any size; others are converted.

    Returns:
        The framed image with its place in the original.
    """
    gray = image if image.mode == "L" else image.convert("L")
    head = _head(gray)
    if head is None and (box := _around_small_head(gray)) is not None:
        inner = frame(gray.crop(box))
        return Framed(inner.image, inner.left + box[0], inner.top + box[1], inner.side, gray.size)
    width, height = gray.size
    margin = 0.0 if head is None else MARGIN
    if head is None:
        head = np.ones((1, 1), dtype=bool)
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    left, right = columns[0] * width / head.shape[1], (columns[-1] + 1) * width / head.shape[1]
    top, bottom = rows[0] * height / head.shape[0], (rows[-1] + 1) * height / head.shape[0]
    side = max(round(max(right - left, bottom - top) * (1 + 2 * margin)), 1)
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    stretched = _stretch(gray, head, (int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))))
    # Pillow pads with 0 where the box leaves the image.
    framed = stretched.crop((x, y, x + side, y + side))
    return Framed(framed, x, y, side, (width, height))


def head_mask(gray: Image.Image) -> np.ndarray:
    """Return which pixels of a gray image lie in the head, with its cavities, bool [H, W]; all if none is found."""
    head = _head(gray)
    if head is None:
        return np.ones((gray.height, gray.width), dtype=bool)
    return np.asarray(Image.fromarray(_filled(head)).resize(gray.size, Image.Resampling.NEAREST))


def _head(
    gray: Image.Image, bright_percentile: float = BRIGHT_PERCENTILE, share: float = HEAD_SHARE
) -> np.ndarray | None:
    """Return the mask of the head at a coarse size, bool [h, w], or None where there is no head to be seen."""
    scale = COARSE_SIDE / max(gray.size)
    size = tuple(max(round(side * scale), 1) for side in gray.size)
    coarse = gray.resize(size, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(0.7))
    values, levels = np.asarray(coarse), counts_of(coarse)
    # Clipped above, so that the threshold parts tissue from background, not fat or a bright tumor from tissue.
    low, high = percentiles(LEVELS, levels, (1, bright_percentile))
    if high - low < MIN_CONTRAST:
        return None
    threshold = _threshold(LEVELS.clip(low, high), levels)
    labels = connected_parts(_opened(_closed(values > threshold)))
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    if counts.max(initial=0) < share * values.size:
        return None
    return np.isin(labels, np.flatnonzero(counts >= PART_SHARE * counts.max()))


def _around_small_head(gray: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the box of a head that is lost in an empty image, with as much again around it; None if there is none."""
    head = _head(gray, SMALL_BRIGHT_PERCENTILE, SMALL_HEAD_SHARE)
    if head is None:
        return None
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    scale, around = max(gray.size) / max(head.shape), max(np.ptp(rows), np.ptp(columns)) / 2 + 1
    left, right = max(columns[0] - around, 0), min(columns[-1] + 1 + around, head.shape[1])
    top, bottom = max(rows[0] - around, 0), min(rows[-1] + 1 + around, head.shape[0])
    if (right - left) * (bottom - top) > head.size / 2:
        return None
    box = [int(edge * scale) for edge in (left, top, right, bottom)]
    return box[0], box[1], min(box[2], gray.width), min(box[3], gray.height)


def _threshold(values: np.ndarray, times: np.ndarray) -> float:
    """Return a level between background and tissue: below Otsu's, so that dark tissue still counts as head.

    Args:
        values: Float [256], ascending.
        times: Int [256], how many pixels have each value.
    """
    counts, edges = np.histogram(values[times > 0], bins=64, weights=times[times > 0])
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    otsu = edges[1 + int(np.nanargmax(between[:-1]))]
    dark = values <= otsu
    background = percentiles(values[dark], times[dark], [25])[0]
    return background + 0.4 * (otsu - background)


def _closed(mask: np.ndarray) -> np.ndarray:
    """Bridge gaps of up to four pixels: the dark bone between scalp and brain."""
    return ~_grown(_grown(~_grown(_grown(mask))))


def _opened(mask: np.ndarray) -> np.ndarray:
    """Remove what is thinner than three pixels: text, rulers and the lines of a border."""
    return _grown(~_grown(~mask, outside=True))


def _grown(mask: np.ndarray, outside: bool = False) -> np.ndarray:
    padded = np.pad(mask, 1, constant_values=outside)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def connected_parts(mask: np.ndarray) -> np.ndarray:
    """Number the connected parts of a mask (4 neighbors), int64 like it; 0 is outside."""
    # A frame of zeros, so that every pixel has four neighbors; a part gets the highest position of its pixels.
    mask = np.pad(mask, 1)
    labels = np.arange(mask.size).reshape(mask.shape) * mask
    while True:
        grown = labels.copy()
        inner = grown[1:-1, 1:-1]
        for neighbor in (labels[:-2, 1:-1], labels[2:, 1:-1], labels[1:-1, :-2], labels[1:-1, 2:]):
            np.maximum(inner, neighbor, out=inner)
        # A label is also the position of a pixel of the same part: taking over its label halves the way.
        grown = grown.ravel()[grown * mask]
        if np.array_equal(grown, labels):
            return labels[1:-1, 1:-1]
        labels = grown


def _stretch(gray: Image.Image, head: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """Map the background to black and the brightest half percent of the head to white; black beside the head."""
    left, top, right, bottom = box
    inside = np.asarray(Image.fromarray(head).resize(gray.size, Image.Resampling.NEAREST))[top:bottom, left:right]
    crop = gray.crop(box)
    counts = counts_of(crop, inside)
    low, dark, high = percentiles(LEVELS, counts, (1, 20, WHITE_PERCENTILE))
    if not inside.all():
        low = min(max(low, percentiles(LEVELS, counts_of(crop) - counts, [50])[0]), dark)
    # Once for each brightness instead of each pixel: a large image has fifty million.
    scaled = (np.arange(256, dtype=np.float32) - low) * (255 / max(high - low, 1))
    stretched = gray.point(scaled.clip(0, 255).round().astype(np.uint8).tolist())
    around = Image.fromarray(_grown(_filled(head))).resize(gray.size, Image.Resampling.NEAREST)
    return Image.composite(stretched, Image.new("L", gray.size), around)


def _filled(mask: np.ndarray) -> np.ndarray:
    """Fill what lies between parts of the mask in its row and in its column: cavities, eyes, dark tissue."""

    def between(values: np.ndarray, axis: int) -> np.ndarray:
        before = np.logical_or.accumulate(values, axis)
        after = np.flip(np.logical_or.accumulate(np.flip(values, axis), axis), axis)
        return before & after

    return between(mask, 0) & between(mask, 1)
