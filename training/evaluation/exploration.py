"""What is in a data set before anyone trains on it: sizes, looks, copies, outliers, and what gives the classes away."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.duplicate_groups import duplicate_groups, duplicate_report
from training.data.sources import Scans, load_scans
from training.evaluation.appearance import class_from_cues, cues_of_files, cues_of_view

SIZE = 160
# Of the measures below, how many standard deviations from its class make a scan an outlier.
OUTLIER = 4.0
# How many images of each class are drawn as samples.
SAMPLES = 10


@dataclass(frozen=True)
class Exploration:
    """What was found in a data set.

    Attributes:
        scans: The images.
        groups: Their duplicate groups, int64 [n].
        copies: The content of `duplicate_report`.
        measures: {name: float [n]}: width, height, brightness, contrast and sharpness of every image.
        modes: {label: {mode: count}}.
        outliers: Indices of unusual images, the most unusual first, with the measure that is unusual.
        cues: {"as it is" or "framed": {cue: balanced accuracy}}, how well trivial features alone tell the class.
        samples: {label: indices}, drawn by seed.
    """

    scans: Scans
    groups: np.ndarray
    copies: dict
    measures: dict[str, np.ndarray]
    modes: dict[str, dict[str, int]]
    outliers: list[tuple[int, str]]
    cues: dict[str, dict]
    samples: dict[str, np.ndarray]


def explore(data_dir: str, seed: int = 0) -> Exploration:
    """Examine every image of a folder; raises `DataError` if it cannot be read."""
    scans = load_scans(data_dir=data_dir, size=SIZE)
    files = [Path(data_dir) / name for name in scans.files]
    groups = duplicate_groups(scans.thumbnails)
    measures, modes = measure_files(scans, files)
    random = np.random.default_rng(seed)
    of_class = {name: np.flatnonzero(scans.labels == index) for index, name in enumerate(scans.label_names)}
    return Exploration(
        scans=scans,
        groups=groups,
        copies=duplicate_report(groups, scans.labels, scans.label_names, scans.official_split),
        measures=measures,
        modes={name: dict(Counter(modes[members])) for name, members in of_class.items()},
        outliers=find_outliers(measures, scans.labels),
        cues=cues_by_frame(scans, groups, files, data_dir, seed),
        samples={name: random.permutation(members)[:SAMPLES] for name, members in of_class.items()},
    )


def measure_files(scans: Scans, files: Sequence[Path]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the measures of every image, and its mode ("L", "RGB" …), text [n]."""
    sizes, modes = [], []
    for file in files:
        with Image.open(file) as image:
            sizes.append(image.size)
            modes.append(image.mode)
    width, height = np.array(sizes, dtype=float).T
    return {
        "width": width,
        "height": height,
        "brightness": np.array([image.mean() for image in scans.pixels]),
        "contrast": np.array([image.std() for image in scans.pixels]),
        "sharpness": np.array([_sharpness(image) for image in scans.pixels]),
    }, np.array(modes)


def _sharpness(image: np.ndarray) -> float:
    """Return the mean difference of neighboring pixels, relative to the contrast: low where an image is blurred."""
    values = image.astype(np.float32)
    steps = np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean()
    return float(steps / max(values.std(), 1))


def find_outliers(measures: dict[str, np.ndarray], labels: np.ndarray) -> list[tuple[int, str]]:
    """Return the images far from their class in one of the measures, the farthest first.

    Distances are in robust standard deviations: 1.48 times the median distance from the median of the class.
    """
    farthest = np.zeros(len(labels))
    names = np.full(len(labels), "", dtype=object)
    for name in ("brightness", "contrast", "sharpness"):
        values = measures[name]
        for label in np.unique(labels):
            members = labels == label
            distances = np.abs(values[members] - np.median(values[members]))
            deviations = distances / max(1.48 * np.median(distances), 1e-6)
            farther = deviations > farthest[members]
            farthest[members] = np.where(farther, deviations, farthest[members])
            names[members] = np.where(farther, name, names[members])
    order = np.argsort(-farthest, kind="stable")
    return [(int(index), str(names[index])) for index in order if farthest[index] > OUTLIER]


def cues_by_frame(scans: Scans, groups: np.ndarray, files: Sequence[Path], data_dir: str, seed: int) -> dict:
    """Return how well the class follows from what says nothing about the brain, before and after framing."""
    framed = load_scans(data_dir=data_dir, size=SIZE, framed=True)
    given = {
        "as it is": cues_of_view(np.asarray(scans.pixels)) | cues_of_files(files),
        "framed": cues_of_view(np.asarray(framed.pixels)),
    }
    return {name: class_from_cues(cues, scans.labels, groups, seed) for name, cues in given.items()}
