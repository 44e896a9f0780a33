"""What the look of a scan alone gives away: its file, border, brightness and size in the frame, without the brain."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from training.evaluation.metrics import Bootstrap, entry_of

FOLDS = 5
CLUSTERS = 8
# Shares of a view's side: what counts as its border, and how far the scalp and bone reach into the head.
BORDER, RIM = 1 / 16, 0.15
# Pixels above this belong to the head rather than to the background.
LIT = 24
GRAY = 110


def cues_of_view(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return simple features of views uint8 [n, H, W] that say nothing about tissue, float [n, k] each by name."""
    lit, width = pixels > LIT, max(round(BORDER * pixels.shape[1]), 1)
    ring = np.ones(pixels.shape[1:], dtype=bool)
    ring[width:-width, width:-width] = False
    border = pixels[:, ring]
    filled = [lit.mean(axis=(1, 2)), *((lit.mean(axis=axis) > BORDER).mean(axis=1) for axis in (1, 2))]
    return {
        "border": np.stack([border.mean(axis=1), border.std(axis=1), (border > LIT).mean(axis=1)], axis=1),
        "mean brightness": pixels.mean(axis=(1, 2))[:, None],
        "framing": np.stack(filled, axis=1),
    }


def cues_of_files(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return width and height, and the number of channels, of image files, float [n, k] by name."""
    sizes, channels = [], []
    for file in files:
        with Image.open(file) as image:
            sizes.append(image.size)
            channels.append([len(image.getbands())])
    return {"size": np.array(sizes, dtype=float), "mode": np.array(channels, dtype=float)}


def class_from_cues(cues: dict[str, np.ndarray], labels: np.ndarray, groups: np.ndarray, seed: int) -> dict:
    """Tell the class from each cue and from all together, with a small forest that never saw the group of a scan.

    Args:
        cues: Float [n, k] by name.
        labels: The true class, int64 [n].
        groups: The duplicate group, int64 [n].
        seed: Seed of folds, forest and intervals.

    Returns:
        {name: balanced accuracy with its interval and n}; "all" stands for all cues.
    """
    folds = [*StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels, groups)]
    results = {}
    for name, features in (cues | {"all": np.concatenate([*cues.values()], axis=1)}).items():
        predicted = np.empty_like(labels)
        for train, test in folds:
            forest = RandomForestClassifier(50, min_samples_leaf=5, class_weight="balanced", random_state=seed)
            predicted[test] = forest.fit(features[train], labels[train]).predict(features[test])
        results[name] = balanced_accuracy(predicted == labels, labels, groups, seed)
    return results


def balanced_accuracy(right: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> dict:
    """Return the mean over the classes of the share that is `right` [n], with its interval by group and n."""
    weights = Bootstrap(seed=seed).weights(groups)
    of_class = [weights[:, labels == label] for label in np.unique(labels)]
    shares = [
        part @ right[labels == label] / part.sum(axis=1).clip(min=1)
        for part, label in zip(of_class, np.unique(labels), strict=True)
    ]
    return entry_of(np.mean(shares, axis=0)) | {"n": len(labels)}


def without_brain(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is left of views uint8 [n, H, W] when the brain is taken out, the same shape each, by name.

    "rim" keeps what lies outside the brain: background, scalp and bone. "outline" keeps only the shape of the head, in
    one gray.
    """
    heads = np.stack([ndimage.binary_fill_holes(ndimage.binary_closing(image > LIT)) for image in pixels])
    depth = round(RIM * pixels.shape[1])
    brains = np.stack([ndimage.binary_erosion(head, iterations=depth) for head in heads])
    return {"rim": np.where(brains, 0, pixels), "outline": np.where(heads, GRAY, 0).astype(np.uint8)}


def clusters(thumbnails: np.ndarray, seed: int) -> np.ndarray:
    """Divide images uint8 [n, 96, 96] into `CLUSTERS` groups that look alike as files: int64 [n].

    They are compared by histogram, brightness at 6 x 6 places, border and framing; nothing else of the tissue counts.
    """
    count, side = thumbnails.shape[:2]
    histogram = np.stack([np.histogram(image, bins=8, range=(0, 256))[0] / image.size for image in thumbnails])
    places = thumbnails.reshape(count, 6, side // 6, 6, side // 6).mean(axis=(2, 4)).reshape(count, -1)
    features = np.concatenate([histogram, places, *cues_of_view(thumbnails).values()], axis=1)
    scaled = StandardScaler().fit_transform(features)
    return KMeans(min(CLUSTERS, count), n_init=10, random_state=seed).fit_predict(scaled).astype(np.int64)
