"""The scans that training draws from: those of the main data, then those of other sources."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.boxes import boxes_in_frame, load_boxes
from training.data.other_sources import (
    OtherScans,
    OtherSplits,
    Source,
    label_ids,
    load_other,
    parse_source,
    split_other,
)
from training.data.sources import DataError
from training.data.splits import TrainingData
from training.data.stack import ImageStack
from training.learning.settings import TrainConfig


@dataclass(frozen=True)
class Pool:
    """Everything that training and the validation on other sources draw from.

    `pixels` uint8 [n, S, S]; `labels` int64 [n], ids of `label_sets` bool [ids, classes]; `boxes` float32 [n, 4] in
    fractions of the pixels, or None; `groups` int64 [n] distinct images; `train` int64 indices; `cells` int64, the kind
    (label and source) of each of `train`, None without other sources; `validation` indices by kind, of other sources
    only; `healthy` is the id of the class without a tumor, -1 if there is none; `fingerprint` is the hash of boxes and
    other sources.
    """

    pixels: ImageStack
    labels: np.ndarray
    label_sets: np.ndarray
    boxes: np.ndarray | None
    groups: np.ndarray
    train: np.ndarray
    cells: np.ndarray | None
    validation: Mapping[str, np.ndarray]
    healthy: int
    fingerprint: str


def make_pool(settings: TrainConfig, data: TrainingData, report: Callable[[str], None]) -> Pool:
    """Join the main data with the other sources; held-out scans and their copies are not among `train`.

    Raises:
        DataError: A source or the boxes cannot be read.
    """
    scans, splits = data.scans, data.splits
    boxes = boxes_in_frame(load_boxes(settings.boxes, scans.files), scans.frames) if settings.boxes else None
    names, classes = scans.label_names, len(scans.label_names)
    healthy = names.index(settings.no_tumor_label) if settings.no_tumor_label in names else -1
    if settings.counterfactuals and healthy < 0:
        raise DataError(f"--counterfactuals needs a class without a tumor, and there is no {settings.no_tumor_label}.")
    if not settings.source:
        sets, fingerprint = np.eye(classes, dtype=bool), _fingerprint(settings)
        return Pool(scans.pixels, scans.labels, sets, boxes, data.groups, splits.train, None, {}, healthy, fingerprint)

    sources = [parse_source(text) for text in settings.source]
    other = load_other(sources, scans, settings.no_tumor_label, settings.epoch_sizes[-1], settings.frame)
    parts = split_other(scans, splits, other, sources, settings.seed, settings.validation_fraction)
    labels, sets = label_ids(scans.labels, other.allowed, classes)
    first = len(scans.labels)
    train = np.concatenate([np.setdiff1d(splits.train, parts.purged), first + parts.train])
    of_source = np.concatenate([np.repeat("", first), other.sources])[train]
    cells = np.unique(np.stack([of_source, labels[train].astype(str)]), axis=1, return_inverse=True)[1].ravel()
    if boxes is not None:
        boxes = np.concatenate([boxes, np.full((len(other), 4), np.nan, dtype=np.float32)])
    for line in describe_sources(sources, other, parts):
        report(line)
    return Pool(
        pixels=ImageStack.joined([scans.pixels, other.pixels]),
        labels=labels,
        label_sets=sets,
        boxes=boxes,
        groups=parts.groups,
        train=train,
        cells=cells,
        validation=validation_kinds(other, parts, names, first),
        healthy=healthy,
        fingerprint=_fingerprint(settings, other.fingerprint),
    )


def _fingerprint(settings: TrainConfig, other: str = "") -> str:
    """Return the hash of the file of boxes and of the other sources, whose own hash is `other`."""
    boxes = Path(settings.boxes).read_bytes() if settings.boxes else b""
    return hashlib.sha256(boxes + other.encode()).hexdigest()


def validation_kinds(
    other: OtherScans, parts: OtherSplits, label_names: tuple[str, ...], first: int
) -> dict[str, np.ndarray]:
    """Return the indices of the validation scans by source and label, counted on from `first`."""
    found: dict[str, list[int]] = {}
    for index in parts.validation:
        label = "|".join(np.array(label_names)[other.allowed[index]])
        found.setdefault(f"{other.sources[index]} {label}", []).append(first + index)
    return {kind: np.array(indices) for kind, indices in found.items()}


def describe_sources(sources: list[Source], other: OtherScans, parts: OtherSplits) -> list[str]:
    """Return one line per source, and one about what the main data lost."""
    lines = []
    for source in sources:
        counts = (
            f"{(other.sources[indices] == source.name).sum()} {name}"
            for name, indices in (
                ("train", parts.train),
                ("validation", parts.validation),
                ("held out", parts.held_out),
            )
        )
        lines.append(f"{source.name}: {', '.join(counts)}")
    return [*lines, f"{len(parts.purged)} training images share a picture with such a scan and are left out."]
