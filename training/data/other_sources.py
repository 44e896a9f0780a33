"""Scans from other sources beside the main data: their labels, their copies and patients, and what is held out.

The main data is split as if there were no other source, so that its test set stays the same. Of every other source a
part is held out by duplicate group or patient, to measure a model on scans from elsewhere.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.data.duplicate_groups import duplicate_groups
from training.data.sources import DataError, Scans, load_scans
from training.data.splits import Splits
from training.data.stack import ImageStack

# Stands for every class that has a tumor, where a source does not say which kind.
ANY_TUMOR = "tumor"


@dataclass(frozen=True)
class Hold:
    """Which part of a source is held out: a `share` from 0 to 1 or, as part `turn` of `turns`, one of equal parts."""

    share: float
    turn: int = 1
    turns: int = 1

    @classmethod
    def parse(cls, text: str) -> "Hold":
        """Read a share such as `0.3`, or `2/3`, the second of three parts; raises `ValueError`."""
        if "/" not in text:
            share = float(text)
            if not 0 <= share <= 1:
                raise ValueError("hold is a share from 0 to 1, or one of several parts such as 2/3")
            return cls(share)
        turn, turns = (int(word) for word in text.split("/"))
        if not 1 <= turn <= turns:
            raise ValueError(f"there are parts 1/{turns} to {turns}/{turns}")
        return cls(1 / turns, turn, turns)


@dataclass(frozen=True)
class Source:
    """One more folder of scans, as `--source` names it.

    `labels` maps names of its class folders to classes; `hold` is the part that is held out; `patient` is a regular
    expression whose first match in a file's name tells the patient, None where nobody knows.
    """

    folder: str
    labels: dict[str, str]
    hold: Hold
    patient: str | None

    @property
    def name(self) -> str:
        return Path(self.folder).name


@dataclass(frozen=True)
class OtherScans:
    """The scans of all other sources.

    `pixels` uint8 [n, S, S]; `thumbnails` uint8 [n, 96, 96]; `allowed` bool [n, classes], the classes that a scan's
    label leaves open: one where the class is known; `files` n names, each starts with that of its source; `sources` n
    names; `patients` n texts, "" where unknown; `fingerprint` hash of all of it.
    """

    pixels: ImageStack
    thumbnails: ImageStack
    allowed: np.ndarray
    files: list[str]
    sources: np.ndarray
    patients: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class OtherSplits:
    """Indices into `OtherScans` (int64, ascending): to train on, to select by, and held out to measure with.

    `groups` int64 numbers the distinct pictures of the main data, then of the other sources. `purged` are the
    training images of the main data that share a picture with a scan of the latter two. `units` int64 numbers, for each
    of the other scans, what was drawn as a whole.
    """

    train: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray
    groups: np.ndarray
    purged: np.ndarray
    units: np.ndarray


def parse_source(text: str) -> Source:
    """Read `DIR` or `DIR:folder=class,hold=0.3,patient=REGEX`; raises `DataError`."""
    folder, _, options = text.partition(":")
    labels, hold, patient = {}, Hold(0.0), None
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        try:
            if not equals:
                raise ValueError("it has no =")
            if key == "hold":
                hold = Hold.parse(value)
            elif key == "patient":
                patient = re.compile(value).pattern
            else:
                labels[key] = value
        except (ValueError, re.error) as error:
            raise DataError(f"--source {text}: cannot read {option!r}: {error}.") from error
    return Source(folder, labels, hold, patient)


def load_other(sources: Sequence[Source], main: Scans, no_tumor_label: str, size: int, framed: bool) -> OtherScans:
    """Decode the scans of all `sources` with the labels of the `main` data; raises `DataError`."""
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise DataError(f"Two sources have the same folder name: {', '.join(sorted(names))}.")
    parts = [load_scans(data_dir=source.folder, size=size, framed=framed) for source in sources]
    allowed, files, patients = [], [], []
    for source, scans in zip(sources, parts, strict=True):
        rows = np.stack([_allowed(source, name, main.label_names, no_tumor_label) for name in scans.label_names])
        allowed.append(rows[scans.labels])
        files += [f"{source.name}/{file}" for file in scans.files]
        patients += [_patient(source, file) for file in scans.files]
    return OtherScans(
        pixels=ImageStack.joined([scans.pixels for scans in parts]),
        thumbnails=ImageStack.joined([scans.thumbnails for scans in parts]),
        allowed=np.concatenate(allowed),
        files=files,
        sources=np.repeat(names, [len(scans.files) for scans in parts]),
        patients=np.array(patients),
        fingerprint=hashlib.sha256(repr([scans.fingerprint for scans in parts]).encode()).hexdigest(),
    )


def split_other(
    main: Scans, splits: Splits, other: OtherScans, sources: Sequence[Source], seed: int, validation_fraction: float
) -> OtherSplits:
    """Divide the other sources by unit: all scans of one patient, and all copies of one picture.

    A unit with a picture of the main test set is held out, one with a picture of the main validation set serves
    validation, and the rest is drawn. The same seed gives the same split anywhere.
    """
    groups = duplicate_groups(ImageStack.joined([main.thumbnails, other.thumbnails]))
    of_main, of_other = groups[: len(main.files)], groups[len(main.files) :]
    units = _units(of_other, other.patients)
    in_test = np.isin(units, units[np.isin(of_other, of_main[splits.test])])
    in_validation = np.isin(units, units[np.isin(of_other, of_main[splits.validation])]) & ~in_test
    random = np.random.default_rng([seed, len(other)])
    held_out, validation = in_test.copy(), in_validation.copy()
    for source in sources:
        for label in np.unique(other.allowed, axis=0):
            cell = (other.sources == source.name) & (other.allowed == label).all(axis=1)
            if not cell.any():
                continue
            count = len(np.unique(units[cell]))
            if source.hold.turns > 1:
                held_out |= _in_turn(units, cell & ~validation & ~in_test, source.hold, seed)
            else:
                held_out |= _draw(random, units, cell & ~validation, held_out, round(source.hold.share * count))
            validation |= _draw(random, units, cell & ~held_out, validation, round(validation_fraction * count))
    purged = splits.train[np.isin(of_main[splits.train], of_other[held_out | validation])]
    train = np.flatnonzero(~held_out & ~validation)
    return OtherSplits(train, np.flatnonzero(validation & ~held_out), np.flatnonzero(held_out), groups, purged, units)


def label_ids(labels: np.ndarray, allowed: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the labels of main and other scans in one row.

    Returns:
        int64 ids of both, and bool [ids, classes], the classes each id leaves open. The first ids are the classes.
    """
    sets = np.concatenate([np.eye(classes, dtype=bool), np.unique(allowed, axis=0)])
    _, first = np.unique(sets, axis=0, return_index=True)
    sets = sets[np.sort(first)]
    ids = (allowed[:, None, :] == sets[None]).all(axis=2).argmax(axis=1)
    return np.concatenate([labels, ids]), sets


def _allowed(source: Source, folder: str, label_names: Sequence[str], no_tumor_label: str) -> np.ndarray:
    label = source.labels.get(folder, folder)
    if label in label_names:
        return np.array([name == label for name in label_names])
    if label == ANY_TUMOR and no_tumor_label in label_names:
        return np.array([name != no_tumor_label for name in label_names])
    raise DataError(
        f"The folder {folder} of {source.folder} is no class. Name one: --source {source.folder}:{folder}=CLASS, "
        f"where CLASS is {', '.join(label_names)}, or {ANY_TUMOR} for any of those with a tumor."
    )


def _patient(source: Source, file: str) -> str:
    found = re.search(source.patient, file) if source.patient else None
    return f"{source.name}/{found.group()}" if found else ""


def _units(groups: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Join scans that share a picture or a patient, also by way of others; int64 [n]."""
    known = np.flatnonzero(patients != "")
    ids = np.unique(patients[known], return_inverse=True)[1]
    count = len(groups)
    pictures = np.unique(groups, return_inverse=True)[1]
    rows = np.concatenate([np.arange(count), known])
    columns = np.concatenate([count + pictures, count + pictures.max(initial=0) + 1 + ids])
    nodes = columns.max(initial=0) + 1
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:count]


def _draw(
    random: np.random.Generator, units: np.ndarray, cell: np.ndarray, drawn: np.ndarray, count: int
) -> np.ndarray:
    """Return the scans, bool [n], of units drawn from `cell` until `count` of its units are drawn."""
    missing = count - len(np.unique(units[cell & drawn]))
    candidates = random.permutation(np.unique(units[cell & ~drawn]))
    return np.isin(units, candidates[: max(missing, 0)])


def _in_turn(units: np.ndarray, cell: np.ndarray, hold: Hold, seed: int) -> np.ndarray:
    """Return the scans, bool [n], of the units in one of the equal parts of `cell`."""
    # A generator of its own: what other draws took must not change the parts from turn to turn.
    candidates = np.random.default_rng([seed, hold.turns]).permutation(np.unique(units[cell]))
    return np.isin(units, np.array_split(candidates, hold.turns)[hold.turn - 1])
