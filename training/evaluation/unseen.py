"""The scans that a checkpoint was not trained on: the test split, and what was held out of other sources, by kind."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.classifier import Classifier
from training.data.duplicate_groups import duplicate_groups
from training.data.other_sources import OtherScans, OtherSplits, load_other, parse_source, split_other
from training.data.sources import DataError, Scans, load_scans
from training.data.splits import Splits
from training.evaluation.held_out import recorded_split

# The sequence of a scan, where the name of its file tells it.
SEQUENCE = re.compile(r"(?<![A-Za-z0-9])(T1C|T1|T2|FLAIR)(?![A-Za-z0-9])")
TEST = "test"


@dataclass(frozen=True)
class Part:
    """Some scans.

    `pixels` uint8 [n, H, W], what the classifier sees; `allowed` bool [n, classes], the answers that are right; `units`
    int64 [n], what the bootstrap draws: patients or distinct images; `files` n paths.
    """

    pixels: np.ndarray
    allowed: np.ndarray
    units: np.ndarray
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def take(self, chosen: np.ndarray) -> "Part":
        """Return the scans at the indices `chosen`, or where the mask `chosen` is true."""
        indices = np.arange(len(self))[chosen]
        files = [self.files[i] for i in indices]
        return Part(self.pixels[indices], self.allowed[indices], self.units[indices], files)


@dataclass(frozen=True)
class Unseen:
    """The `main` data with its duplicate `groups` int64 [n] and `splits`, and what was not trained on, by kind.

    `kinds` holds the test split as "test"; every other kind is a source, a sequence where known, and a label. `folders`
    holds the data folder of each kind. `no_tumor` is the index of the class without a tumor.
    """

    main: Scans
    groups: np.ndarray
    splits: Splits
    kinds: dict[str, Part]
    folders: dict[str, Path]
    no_tumor: int


def training_settings(checkpoint: str) -> dict:
    """Return the settings of a checkpoint's run, {} where they are not recorded."""
    config = json.loads((checkpoint_folder(checkpoint) / "config.json").read_text(encoding="utf-8"))
    return config["brain_xai"].get("training", {})


def load_main(classifier: Classifier, training: dict, data_dir: str) -> tuple[Scans, np.ndarray, Splits]:
    """Return the main data of a checkpoint's run, its duplicate groups and its split; raises `DataError`."""
    preprocessing = classifier.preprocessing
    scans = load_scans(
        data_dir=data_dir,
        size=preprocessing.size[0],
        interpolation=preprocessing.interpolation,
        framed=preprocessing.frame,
    )
    groups = duplicate_groups(scans.thumbnails)
    return scans, groups, recorded_split(classifier, training, scans, groups)


def unseen_scans(classifier: Classifier, training: dict, data_dir: str, sources: Sequence[str]) -> Unseen:
    """Return the test split, and what `sources` hold out, given as for `--source` in training; raises `DataError`."""
    main, groups, splits = load_main(classifier, training, data_dir)
    if training["no_tumor_label"] not in main.label_names:
        raise DataError(f"Tumors cannot be told from none: no class of this data is {training['no_tumor_label']!r}.")
    no_tumor = main.label_names.index(training["no_tumor_label"])
    files = [Path(data_dir) / main.files[i] for i in splits.test]
    allowed = np.eye(len(main.label_names), dtype=bool)[main.labels[splits.test]]
    test = Part(main.pixels[splits.test], allowed, groups[splits.test], files)
    result = Unseen(main, groups, splits, {TEST: test}, {TEST: Path(data_dir)}, no_tumor)
    if not sources:
        return result
    parsed = [parse_source(text) for text in sources]
    preprocessing = classifier.preprocessing
    other = load_other(parsed, main, training["no_tumor_label"], preprocessing.size[0], preprocessing.frame)
    parts = split_other(main, splits, other, parsed, classifier.metrics["seed"], training["validation_fraction"])
    by_name = {source.name: Path(source.folder) for source in parsed}
    unseen = never_trained_on(parts, splits, with_sources=bool(training.get("source")))
    for kind, indices in by_kind(other, main.label_names, unseen).items():
        folder = by_name[other.sources[indices[0]]]
        files = [folder / Path(other.files[i]).relative_to(folder.name) for i in indices]
        result.kinds[kind] = Part(other.pixels[indices], other.allowed[indices], parts.units[indices], files)
        result.folders[kind] = folder
    return result


def by_kind(other: OtherScans, label_names: Sequence[str], indices: np.ndarray) -> dict[str, np.ndarray]:
    """Group `indices` by source, sequence where known, and label; each is measured on its own."""
    found: dict[str, list[int]] = {}
    for index in indices:
        sequence = SEQUENCE.search(Path(other.files[index]).stem.replace("_", " "))
        label = " or ".join(name for name, may in zip(label_names, other.allowed[index], strict=True) if may)
        words = [other.sources[index], sequence.group() if sequence else "", label]
        found.setdefault(" ".join(filter(None, words)), []).append(index)
    return {kind: np.array(found[kind]) for kind in sorted(found)}


def never_trained_on(parts: OtherSplits, splits: Splits, with_sources: bool) -> np.ndarray:
    """Return the held-out scans without a copy among the training images; int64 indices, ascending.

    A run on several sources leaves such copies out of its training; one on the main data alone (not `with_sources`)
    has trained on them.
    """
    trained = np.setdiff1d(splits.train, parts.purged) if with_sources else splits.train
    of_other = parts.groups[len(parts.groups) - len(parts.units) :]
    return parts.held_out[~np.isin(of_other[parts.held_out], parts.groups[trained])]
