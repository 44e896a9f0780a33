"""Train, validation and test splits without leaks, and how to recognize a split."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.data.duplicate_groups import conflicting_groups
from training.data.sources import DataError, Scans

SPLITS = ("purged", "official", "grouped")
FOLD = re.compile(r"fold:(\d+)/(\d+)")


@dataclass(frozen=True)
class Splits:
    """Indices into `Scans` (int64, ascending); no duplicate group is in two of them unless the split is official."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class SplitIdentity:
    """What distinguishes one split from another.

    `split` is its kind, `fingerprint` the hash of the data, `sizes` {"train": n, "validation": n, "test": n}.
    """

    split: str
    seed: int
    fingerprint: str
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, metrics: Mapping) -> "SplitIdentity":
        """Read the identity from the content of metrics.json; raises `KeyError` if it is not recorded."""
        return cls(metrics["split"], metrics["seed"], metrics["data"]["fingerprint"], metrics["data"]["n"])

    @classmethod
    def of_splits(cls, splits: Splits, split: str, seed: int, scans: Scans) -> "SplitIdentity":
        """Return the identity of `splits`, which were drawn from `scans`."""
        return cls(split, seed, scans.fingerprint, {name: len(indices) for name, indices in vars(splits).items()})


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained and measured on; `groups` int64 [n] are the duplicate groups of the scans."""

    scans: Scans
    groups: np.ndarray
    splits: Splits
    identity: SplitIdentity


def split_scans(
    scans: Scans,
    groups: np.ndarray,
    split: str = "purged",
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.15,
) -> Splits:
    """Divide the scans; the same seed gives the same split on every machine.

    Validation is drawn by duplicate group, class by class. Images with two labels are used neither for training nor
    for validation, because one of the labels is wrong. A class of very few images may be missing in validation and
    test, never in training: what is drawn always leaves one group of a class.

    Args:
        scans: The images.
        groups: int64 [n], their duplicate groups.
        split: "purged" keeps the official test set and removes training images that share a group with it.
            "official" is the split as published, with its leak, for comparison only. "grouped" draws the test set by
            duplicate group, too. "fold:2/5" takes the second of five parts of all groups, stratified by class, as the
            test set; the five test sets are disjoint and hold every image.
        seed: Seed of everything that is drawn.
        validation_fraction: Fraction of each class's remaining groups.
        test_fraction: Fraction of each class's groups, with "grouped".

    Returns:
        The three sets of indices; none is empty, and `train` lacks no class.

    Raises:
        DataError: if the split is unknown, the data has no test folder, training would lack a class, or validation or
            test would be empty.
    """
    fold = parse_split(split)
    random = np.random.default_rng(seed)
    if fold:
        test = _fold(random, groups, scans.labels, *fold)
    elif split == "grouped":
        test = _draw_groups(random, np.arange(len(groups)), groups, scans.labels, test_fraction)
    else:
        test = np.flatnonzero(scans.official_split == "test")
        if len(test) == 0:
            raise DataError(f"This data has no Testing folder, so there is no {split} split. Use --split grouped.")
    remaining = np.setdiff1d(np.arange(len(groups)), test)
    if split == "purged":
        remaining = remaining[~np.isin(groups[remaining], groups[test])]
    remaining = remaining[~np.isin(groups[remaining], conflicting_groups(groups, scans.labels))]
    validation = _draw_groups(random, remaining, groups, scans.labels, validation_fraction)
    train = np.setdiff1d(remaining, validation)
    missing = set(range(len(scans.label_names))) - set(scans.labels[train].tolist())
    if missing:
        names = ", ".join(scans.label_names[i] for i in sorted(missing))
        raise DataError(f"The training split has no image of: {names}. Add images or change the fractions.")
    for name, indices in (("validation", validation), ("test", test)):
        if len(indices) == 0:
            raise DataError(f"The {name} split has no image. Add images: each split needs a different one of a class.")
    return Splits(train, validation, test)


def parse_split(split: str) -> tuple[int, int] | None:
    """Return (fold, folds) of a split such as "fold:2/5", None of any other kind; raises `DataError` if unknown."""
    found = FOLD.fullmatch(split)
    if found:
        fold, folds = map(int, found.groups())
        if folds >= 2 and 1 <= fold <= folds:
            return fold, folds
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}. Use one of: {', '.join(SPLITS)}, fold:1/5.")
    return None


def _fold(random: np.random.Generator, groups: np.ndarray, labels: np.ndarray, fold: int, folds: int) -> np.ndarray:
    """Return the images of one fold: of each class's groups, in an order drawn by seed, every `folds`-th one."""
    ids, first = np.unique(groups, return_index=True)
    drawn = [random.permutation(ids[labels[first] == label])[fold - 1 :: folds] for label in np.unique(labels[first])]
    return np.flatnonzero(np.isin(groups, np.concatenate(drawn)))


def _draw_groups(
    random: np.random.Generator, indices: np.ndarray, groups: np.ndarray, labels: np.ndarray, fraction: float
) -> np.ndarray:
    """Return all of `indices` that belong to a random `fraction` of each class's groups: at least one, but not all."""
    ids, first = np.unique(groups[indices], return_index=True)
    label_of_group = labels[indices][first]
    drawn = []
    for label in np.unique(label_of_group):
        candidates = random.permutation(ids[label_of_group == label])
        drawn.append(candidates[: min(max(1, round(fraction * len(candidates))), len(candidates) - 1)])
    return indices[np.isin(groups[indices], np.concatenate(drawn))]
