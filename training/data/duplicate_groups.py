"""Mirror-aware duplicate groups: which files show the same picture, in spite of copying, resizing and flipping."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

THUMBNAIL_SIZE = 96
# Measured on 3,959 scans of known origin: two files of one slice correlate above .999, different slices below .98.
SAME_PICTURE = 0.99
# Brightening and sharpening push copies below the correlation of neighbouring slices; the fine detail that a Gaussian
# blur takes away still tells them apart: different slices stay below .912. A false match costs one training image, a
# missed copy of a test image costs an honest figure, hence the bound close above.
DETAIL_SIGMA = 2
SAME_DETAIL = 0.93
# Only pairs that already look alike at 24 x 24 pixels are compared in full; every match found there is above .938.
COARSE_SIZE = 24
COARSE_CORRELATION = 0.92
BLOCK = 512


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return the picture as uint8 [96, 96] grey, height and width scaled apart.

    Bilinear, because Pillow's box filter samples unevenly at factors below 3: copies resized to 110 pixels get lost.
    """
    return np.asarray(image.convert("L").resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BILINEAR))


def duplicate_groups(thumbnails: np.ndarray) -> np.ndarray:
    """Number the distinct pictures among `thumbnails`, uint8 [n, 96, 96].

    Returns int64 [n]: the same number for copies (re-encoded, resized, brightened, sharpened) and for left-right
    mirrored, up-down mirrored and by 180° rotated pictures; transitive; numbered from 0 in order of first appearance.
    Two pictures match where, under one of the four flips, their normalised cross-correlation is above .99, or that
    of their fine detail above .93. Needs about 130 KB of memory per picture.
    """
    count = len(thumbnails)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    grey = thumbnails.astype(np.float32)
    coarse = grey.reshape(count, COARSE_SIZE, -1, COARSE_SIZE, THUMBNAIL_SIZE // COARSE_SIZE).mean(axis=(2, 4))
    # As a matrix, because two products blur the whole stack ten times quicker than a filter does.
    blur = gaussian_filter1d(np.eye(THUMBNAIL_SIZE, dtype=np.float32), DETAIL_SIGMA, axis=0)
    detail = _normalised(grey - blur @ grey @ blur.T)
    grey, coarse = _normalised(grey), _normalised(coarse)

    edges = [_equal_constants(thumbnails)]
    for axes in ((), (1,), (2,), (1, 2)):
        for first, second in _candidates(coarse, np.flip(coarse, axes)):
            same = _correlation(grey, first, second, axes) > SAME_PICTURE
            unsure = np.flatnonzero(~same)
            same[unsure] = _correlation(detail, first[unsure], second[unsure], axes) > SAME_DETAIL
            edges.append(np.stack([first[same], second[same]]))
    first, second = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    return _in_order_of_appearance(connected_components(graph, directed=False)[1])


def conflicting_groups(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the ids of the duplicate groups whose pictures carry more than one label."""
    pairs = np.unique(np.stack([groups, labels]), axis=1)
    ids, counts = np.unique(pairs[0], return_counts=True)
    return ids[counts > 1]


def duplicate_report(
    groups: np.ndarray, labels: np.ndarray, label_names: Sequence[str], official_split: Sequence[str]
) -> dict:
    """Count copies, per class and across the official split, as plain numbers that JSON can hold.

    `groups` and `labels` int64 [n]; `official_split` n times "train" or "test". "conflicts" lists the groups whose
    pictures carry several labels, by their indices; "conflicting_groups" is how many there are.
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


def _normalised(pictures: np.ndarray) -> np.ndarray:
    """Scale each picture to mean 0 and length 1, so that products are correlations; a constant one becomes 0."""
    pictures = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.einsum("nhw,nhw->n", pictures, pictures))
    # Rounding leaves a constant picture a little above zero; one pixel that is one grey level off gives .06 or more.
    scale = np.divide(1, length, out=np.zeros_like(length), where=length > 0.03)
    pictures *= scale[:, None, None]
    return pictures


def _equal_constants(thumbnails: np.ndarray) -> np.ndarray:
    """Return the edges between pictures of one and the same grey, for which no correlation is defined."""
    level = thumbnails[:, 0, 0]
    constant = np.flatnonzero((thumbnails == level[:, None, None]).all(axis=(1, 2)))
    _, first, inverse = np.unique(level[constant], return_index=True, return_inverse=True)
    return np.stack([constant[first][inverse], constant])


def _candidates(pictures: np.ndarray, flipped: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the index pairs (first < second) that may match, in pieces that keep memory small."""
    pictures, flipped = pictures.reshape(len(pictures), -1), flipped.reshape(len(flipped), -1)
    for start in range(0, len(pictures), BLOCK):
        correlation = pictures[start : start + BLOCK] @ flipped[start:].T
        first, second = np.nonzero(np.triu(correlation > COARSE_CORRELATION, k=1))
        for piece in range(0, len(first), BLOCK):
            yield start + first[piece : piece + BLOCK], start + second[piece : piece + BLOCK]


def _correlation(pictures: np.ndarray, first: np.ndarray, second: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.einsum("nhw,nhw->n", pictures[first], np.flip(pictures[second], axes))


def _in_order_of_appearance(groups: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
