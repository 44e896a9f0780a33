"""Images with a tumor box that a checkpoint was not trained on."""

from dataclasses import dataclass, replace

import numpy as np

from brain_xai.classifier import Classifier
from training.data.boxes import boxes_in_frame, load_boxes
from training.data.duplicate_groups import conflicting_groups, duplicate_groups
from training.data.sources import DataError, Scans, load_scans
from training.data.splits import SplitIdentity, Splits, split_scans


@dataclass(frozen=True)
class BoxedScans:
    """One image of each duplicate group, in an order drawn by seed.

    Attributes:
        pixels: What the classifier sees, gray, uint8 [n, H, W].
        boxes: x_min, y_min, x_max, y_max in fractions of width and height, float32 [n, 4].
        labels: The true class, int64 [n].
        groups: The duplicate group, int64 [n].
        files: The file names.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    files: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def held_out_scans(
    classifier: Classifier, training: dict, data_dir: str, boxes: str, seed: int = 0
) -> dict[str, BoxedScans]:
    """Return boxed images that share no duplicate group with the training split.

    "validation" is the validation split of the run, to choose thresholds and weights on. "test" shares no group with
    validation either; with the purged split it consists of the training files that were removed as copies of test
    images. The split is repeated and must be the recorded one.

    Args:
        classifier: The checkpoint, with its metrics.
        training: The settings of its run, from config.json.
        data_dir: The data that it was trained on.
        boxes: The CSV file of boxes.
        seed: Seed of the order and of the choice within a group.

    Raises:
        DataError: The data or the split is not that of the run, or no image is left.
    """
    height, width = classifier.preprocessing.size
    if height != width:
        raise DataError("Only checkpoints for square images can be measured.")
    preprocessing = classifier.preprocessing
    scans = load_scans(
        data_dir=data_dir, size=height, interpolation=preprocessing.interpolation, framed=preprocessing.frame
    )
    groups = duplicate_groups(scans.thumbnails)
    splits = recorded_split(classifier, training, scans, groups)
    coordinates = boxes_in_frame(load_boxes(boxes, scans.files), scans.frames)
    # Where copies of one image carry two labels, one of the labels is wrong.
    usable = ~np.isnan(coordinates).any(axis=1) & ~np.isin(groups, conflicting_groups(groups, scans.labels))
    seen = groups[np.concatenate([splits.train, splits.validation])]
    candidates = {
        "validation": np.intersect1d(np.flatnonzero(usable), splits.validation),
        "test": np.flatnonzero(usable & ~np.isin(groups, seen)),
    }
    sets = {}
    for name, indices in candidates.items():
        if len(indices) == 0:
            raise DataError(f"No image with a box is left for {name}: the checkpoint was trained on all of them.")
        order = np.random.default_rng(seed).permutation(indices)
        chosen = order[np.sort(np.unique(groups[order], return_index=True)[1])]
        files = [scans.files[i] for i in chosen]
        sets[name] = BoxedScans(scans.pixels[chosen], coordinates[chosen], scans.labels[chosen], groups[chosen], files)
    return sets


def for_views(classifier: Classifier) -> Classifier:
    """Return the same classifier for images that are already its views and must not be framed again."""
    return replace(classifier, preprocessing=replace(classifier.preprocessing, frame=False))


def recorded_split(classifier: Classifier, training: dict, scans: Scans, groups: np.ndarray) -> Splits:
    """Divide the scans as the run of the checkpoint did; raises `DataError` if data or split differ."""
    try:
        recorded = SplitIdentity.of(classifier.metrics)
        fractions = {key: training[key] for key in ("validation_fraction", "test_fraction")}
    except KeyError as error:
        raise DataError(
            f"The checkpoint does not record its split ({error} is missing): it may have seen any image."
        ) from error
    if scans.fingerprint != recorded.fingerprint or scans.label_names != classifier.label_names:
        raise DataError("These are not the images that the checkpoint was trained on: its split cannot be repeated.")
    splits = split_scans(scans, groups, recorded.split, recorded.seed, **fractions)
    sizes = {name: len(indices) for name, indices in vars(splits).items()}
    if sizes != recorded.sizes:
        raise DataError(
            f"The split came out as {sizes}, the checkpoint's was {recorded.sizes}: it may have seen any image."
        )
    return splits
