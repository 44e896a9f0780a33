"""Pictures with a tumour box that a checkpoint was not trained on: only they can tell how good its maps are."""

from dataclasses import dataclass

import numpy as np

from brain_xai.classifier import Classifier
from training.data.boxes import load_boxes
from training.data.duplicate_groups import conflicting_groups, duplicate_groups
from training.data.sources import DataError, Scans, load_scans
from training.data.splits import SPLITS, Splits, split_scans


@dataclass(frozen=True)
class BoxedScans:
    """One picture of each duplicate group, in an order drawn by seed.

    `pixels` uint8 [n, H, W] grey, the classifier's view; `boxes` float32 [n, 4] x_min, y_min, x_max, y_max in
    fractions; `labels` and `groups` int64 [n]; `files` n names.
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
    """Return the boxed pictures of two sets that share no picture with the training split.

    "validation" is that of the run, to choose thresholds and weights on. "test" shares no picture with validation
    either: on the purged split these are the training files that were removed because the test set has a copy.
    `training` are the run's settings, from the checkpoint's config.json. The split is made anew and must be the
    recorded one. Raises `DataError`.
    """
    height, width = classifier.preprocessing.size
    if height != width:
        raise DataError("Only checkpoints for square pictures can be measured.")
    scans = load_scans(data_dir=data_dir, size=height, interpolation=classifier.preprocessing.interpolation)
    groups = duplicate_groups(scans.thumbnails)
    splits = recorded_split(classifier, training, scans, groups)
    coordinates = load_boxes(boxes, scans.files)
    # A picture with two labels has a wrong one, and nobody knows which.
    usable = ~np.isnan(coordinates).any(axis=1) & ~np.isin(groups, conflicting_groups(groups, scans.labels))
    seen = groups[np.concatenate([splits.train, splits.validation])]
    candidates = {
        "validation": np.intersect1d(np.flatnonzero(usable), splits.validation),
        "test": np.flatnonzero(usable & ~np.isin(groups, seen)),
    }
    sets = {}
    for name, indices in candidates.items():
        if len(indices) == 0:
            raise DataError(f"No picture with a box is left for {name}: the checkpoint was trained on all of them.")
        order = np.random.default_rng(seed).permutation(indices)
        chosen = order[np.sort(np.unique(groups[order], return_index=True)[1])]
        files = [scans.files[i] for i in chosen]
        sets[name] = BoxedScans(scans.pixels[chosen], coordinates[chosen], scans.labels[chosen], groups[chosen], files)
    return sets


def recorded_split(classifier: Classifier, training: dict, scans: Scans, groups: np.ndarray) -> Splits:
    """Divide the scans as the run of the checkpoint did; raises `DataError` where data or split are others."""
    try:
        kind, seed, data = (classifier.metrics[key] for key in ("split", "seed", "data"))
        fractions = {key: training[key] for key in ("validation_fraction", "test_fraction")}
    except KeyError as error:
        raise DataError(
            f"The checkpoint does not record its split ({error} is missing): it may have seen any picture."
        ) from error
    if scans.fingerprint != data["fingerprint"] or scans.label_names != classifier.label_names:
        raise DataError("These are not the pictures that the checkpoint's run was given: its split cannot be repeated.")
    if kind not in SPLITS:
        raise DataError(f"The checkpoint names the split {kind!r}, which is none of {', '.join(SPLITS)}.")
    splits = split_scans(scans, groups, kind, seed, **fractions)
    sizes = {name: len(indices) for name, indices in vars(splits).items()}
    if sizes != data["n"]:
        raise DataError(
            f"The split came out as {sizes}, the checkpoint's was {data['n']}: it may have seen any picture."
        )
    return splits
