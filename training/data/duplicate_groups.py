"""Mirror-aware duplicate groups: which files show the same image, even after re-encoding, resizing or flipping."""

import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.data.stack import ImageStack

THUMBNAIL_SIZE = 96
# Measured on 3,959 scans of known origin: two files of one slice correlate above .999, different slices below .98.
SAME_IMAGE = 0.99
# Brightened and sharpened copies correlate less than neighboring slices do, so a second test compares the high-pass
# images (image minus Gaussian blur), where different slices stay below .912. The threshold is close to that: a false
# match costs one training image, but a missed copy of a test image makes the published numbers wrong.
DETAIL_SIGMA = 2
SAME_DETAIL = 0.93
# Only pairs that are similar at 24 x 24 pixels are compared in full; all known matches are above .938 there.
COARSE_SIZE = 24
COARSE_CORRELATION = 0.92
BLOCK = 512
IN_MEMORY = 20_000


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return the image as uint8 [96, 96] gray, without keeping the aspect ratio.

    Bilinear, because Pillow's box filter samples unevenly at factors below 3 and misses copies of 110 pixels.
    """
    return np.asarray(image.convert("L").resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BILINEAR))


def duplicate_groups(thumbnails: ImageStack | np.ndarray) -> np.ndarray:
    """Number the distinct images.

    Two images match if, under one of four flips (none, left-right, up-down, both), their normalized cross-correlation
    exceeds `SAME_IMAGE`, or that of their high-pass images exceeds `SAME_DETAIL`. Groups are transitive: copies of
    copies share a group. About 80 KB of memory per image, or, above `IN_MEMORY` images, 5 KB and 75 KB on disk.

    Args:
        thumbnails: uint8 [n, 96, 96], see `thumbnail`.

    Returns:
        int64 [n], the group of each image, numbered from 0 in order of first appearance.
    """
    count = len(thumbnails)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    gray, detail, coarse = _room(count, THUMBNAIL_SIZE), _room(count, THUMBNAIL_SIZE), _room(count, COARSE_SIZE)
    level = np.full(count, -1)  # of constant images
    # As a matrix: two products blur the whole stack ten times faster than a filter does.
    blur = gaussian_filter1d(np.eye(THUMBNAIL_SIZE, dtype=np.float32), DETAIL_SIGMA, axis=0)
    for start in range(0, count, BLOCK):
        part, images = slice(start, start + BLOCK), thumbnails[start : start + BLOCK]
        constant = (images == images[:, :1, :1]).all(axis=(1, 2))
        level[part][constant] = images[constant, 0, 0]
        images = images.astype(np.float32)
        blocks = images.reshape(len(images), COARSE_SIZE, -1, COARSE_SIZE, THUMBNAIL_SIZE // COARSE_SIZE)
        coarse[part] = _standardize(blocks.mean(axis=(2, 4)))
        detail[part] = _standardize(images - blur @ images @ blur.T)
        gray[part] = _standardize(images)

    edges = [_equal_constants(level)]
    for axes in ((), (1,), (2,), (1, 2)):
        for first, second in _candidates(coarse, np.flip(coarse, axes)):
            same = _correlation(gray, first, second, axes) > SAME_IMAGE
            unsure = np.flatnonzero(~same)
            same[unsure] = _correlation(detail, first[unsure], second[unsure], axes) > SAME_DETAIL
            edges.append(np.stack([first[same], second[same]]))
    first, second = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    return _in_order_of_appearance(connected_components(graph, directed=False)[1])


def conflicting_groups(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the ids of the duplicate groups whose images have more than one label."""
    pairs = np.unique(np.stack([groups, labels]), axis=1)
    ids, counts = np.unique(pairs[0], return_counts=True)
    return ids[counts > 1]


def duplicate_report(
    groups: np.ndarray, labels: np.ndarray, label_names: Sequence[str], official_split: Sequence[str]
) -> dict:
    """Count copies, per class and across the official split.

    Args:
        groups: int64 [n], see `duplicate_groups`.
        labels: int64 [n], indices into `label_names`.
        label_names: The classes.
        official_split: "train" or "test" for each image.

    Returns:
        Plain numbers that JSON can hold. "conflicts" lists the groups whose images have more than one label, as
        indices of their images; "conflicting_groups" is their number.
    """
    groups, labels = np.asarray(groups), np.asarray(labels)
    is_test = np.asarray(official_split) == "test"
    copied_to_train = is_test & np.isin(groups, groups[~is_test])
    copied_to_test = ~is_test & np.isin(groups, groups[is_test])

    def counts(selected: np.ndarray) -> dict[str, int]:
        return {
            "images": int(selected.sum()),
            "distinct_pictures": len(np.unique(groups[selected])),
            "train_images": int((selected & ~is_test).sum()),
            "train_images_with_copy_in_test": int((selected & copied_to_test).sum()),
            "test_images": int((selected & is_test).sum()),
            "test_images_with_copy_in_train": int((selected & copied_to_train).sum()),
        }

    conflicts = []
    for group in conflicting_groups(groups, labels):
        members = np.flatnonzero(groups == group)
        names = [label_names[label] for label in labels[members]]
        conflicts.append({"group": int(group), "images": members.tolist(), "labels": names})
    return {
        **counts(np.ones(len(groups), dtype=bool)),
        "largest_group": int(np.bincount(groups).max(initial=0)),
        "conflicting_groups": len(conflicts),
        "classes": {name: counts(labels == label) for label, name in enumerate(label_names)},
        "conflicts": conflicts,
    }


def _standardize(images: np.ndarray) -> np.ndarray:
    """Scale each image to mean 0 and length 1, so that products are correlations; a constant image becomes 0."""
    images = images - images.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.einsum("nhw,nhw->n", images, images))
    # Rounding errors of a constant image are far smaller than one pixel that differs by one gray level (.06 or more).
    scale = np.divide(1, length, out=np.zeros_like(length), where=length > 0.03)
    images *= scale[:, None, None]
    return images


def _room(count: int, side: int) -> np.ndarray:
    """Return float32 [count, side, side] to be filled, of a temporary file where it might not fit into memory."""
    shape = (count, side, side)
    if count <= IN_MEMORY or side < THUMBNAIL_SIZE:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _equal_constants(level: np.ndarray) -> np.ndarray:
    """Return the edges between constant images of equal gray `level` (-1: not constant), which have no correlation."""
    constant = np.flatnonzero(level >= 0)
    _, first, inverse = np.unique(level[constant], return_index=True, return_inverse=True)
    return np.stack([constant[first][inverse], constant])


def _candidates(images: np.ndarray, flipped: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the index pairs (first < second) that may match, in blocks that limit memory."""
    images, flipped = images.reshape(len(images), -1), flipped.reshape(len(flipped), -1)
    for start in range(0, len(images), BLOCK):
        correlation = images[start : start + BLOCK] @ flipped[start:].T
        first, second = np.nonzero(np.triu(correlation > COARSE_CORRELATION, k=1))
        for piece in range(0, len(first), BLOCK):
            yield start + first[piece : piece + BLOCK], start + second[piece : piece + BLOCK]


def _correlation(images: np.ndarray, first: np.ndarray, second: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.einsum("nhw,nhw->n", images[first], np.flip(images[second], axes))


def _in_order_of_appearance(groups: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
