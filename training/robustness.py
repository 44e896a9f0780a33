"""Measure how a checkpoint's answers, warnings and maps hold when a scan is changed without changing the diagnosis.

python -m training.robustness --checkpoint runs/resnet18 --data-dir DIR --boxes DIR/boxes.csv

Writes `robustness.json`, `figures/robustness.png` and the card of the checkpoint folder, and prints a table.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates
from tqdm.auto import tqdm

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.classifier import Classifier
from brain_xai.explanation import MethodNotApplicable, explain
from brain_xai.framing import frame
from brain_xai.preprocess import COLOR_INFO, read_image
from brain_xai.quality import rank_similarity
from training.data.boxes import load_boxes
from training.data.duplicate_groups import conflicting_groups
from training.data.sources import DataError
from training.evaluation.changes import CHANGES, Change, Points
from training.evaluation.metrics import Bootstrap, ratio_with_interval
from training.evaluation.unseen import load_main, training_settings
from training.report.card import ROBUSTNESS_FILE, card_of
from training.report.robustness import robustness_figure, robustness_table

METHOD = "grad_cam"
# Maps are compared at this many places of the original image, from left to right and from top to bottom.
PLACES = 80


@dataclass(frozen=True)
class Request:
    """What to measure, on how many `images`; `boxes` is a CSV file as for training."""

    checkpoint: str
    data_dir: str
    boxes: str
    images: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """Distinct images that were not trained on: `files` n paths, `labels` int64 [n] and `groups` int64 [n].

    `boxes` float32 [n, 4] in fractions of the image, NaN where there is no box.
    """

    files: list[Path]
    labels: np.ndarray
    groups: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class Row:
    """What one image gave: whether the answer is right, the codes of its warnings, and the map at all `places`.

    The map, float64 [PLACES * PLACES], is NaN where the model did not see the original.
    """

    right: bool
    codes: tuple[str, ...]
    attribution: np.ndarray


def draw_sample(classifier: Classifier, request: Request) -> Sample:
    """Draw equally many distinct images of each class from those that share no image with training or validation.

    Images with a box come first, for the pointing game. Raises `DataError`.
    """
    training = training_settings(request.checkpoint)
    scans, groups, splits = load_main(classifier, training, request.data_dir)
    boxes = load_boxes(request.boxes, scans.files)
    seen = groups[np.concatenate([splits.train, splits.validation])]
    usable = np.flatnonzero(~np.isin(groups, seen) & ~np.isin(groups, conflicting_groups(groups, scans.labels)))
    order = np.random.default_rng(request.seed).permutation(usable)
    order = order[np.argsort(np.isnan(boxes[order, 0]), kind="stable")]
    order = order[np.sort(np.unique(groups[order], return_index=True)[1])]
    each = request.images // len(scans.label_names)
    chosen = np.concatenate([order[scans.labels[order] == label][:each] for label in range(len(scans.label_names))])
    files = [Path(request.data_dir) / scans.files[i] for i in chosen]
    return Sample(files, scans.labels[chosen], groups[chosen], boxes[chosen])


def places() -> Points:
    """Return the points of the original image at which maps are compared, float64 [PLACES * PLACES, 2]."""
    steps = (np.arange(PLACES) + 0.5) / PLACES
    return np.stack(np.meshgrid(steps, steps, indexing="xy"), axis=-1).reshape(-1, 2)


def look(classifier: Classifier, image: Image.Image, label: int, points: Points) -> Row:
    """Answer and explain one gray image; `points` [n, 2] are the places of the original, in fractions of `image`."""
    explanation = explain(classifier, image, METHOD, label)
    part = np.array(frame(image).part if classifier.preprocessing.frame else (0.0, 0.0, 1.0, 1.0))
    in_view = (points - part[:2]) / (part[2:] - part[:2])
    height, width = explanation.attribution.shape
    coordinates = (in_view[:, ::-1] * (height, width) - 0.5).T
    values = map_coordinates(explanation.attribution, coordinates, order=1, mode="nearest")
    visible = ((in_view >= 0) & (in_view <= 1) & (points >= 0) & (points <= 1)).all(axis=1)
    prediction = explanation.prediction
    codes = tuple(warning.code for warning in prediction.warnings)
    is_right = prediction.label == classifier.label_names[label]
    return Row(is_right, codes, np.where(visible, values, np.nan))


def measure_level(rows: list[Row], plain: list[Row], sample: Sample, seed: int) -> dict:
    """Return accuracy, warnings, and how the maps compare with those of the unchanged scans."""
    bootstrap, everywhere = Bootstrap(seed=seed), np.ones(len(rows), dtype=bool)

    def mean(values: list[float], chosen: np.ndarray = everywhere) -> dict:
        values = np.asarray(values, dtype=float)
        return ratio_with_interval(values, np.ones(len(values)), sample.groups[chosen], bootstrap)

    codes = sorted({code for row in rows for code in row.codes})
    boxed = ~np.isnan(sample.boxes).any(axis=1)
    pointing = [points_at(rows[i].attribution, sample.boxes[i]) for i in np.flatnonzero(boxed)]
    return {
        "accuracy": mean([row.right for row in rows]),
        "warned": mean([bool(row.codes) for row in rows]),
        "codes": {code: mean([code in row.codes for row in rows]) for code in codes},
        "rank_correlation": mean([alike(row, before) for row, before in zip(rows, plain, strict=True)]),
        "pointing_game": mean(pointing, boxed) if boxed.any() else None,
    }


def alike(row: Row, before: Row) -> float:
    """Return the rank correlation of two maps where both are known; 0 where they share no place."""
    both = np.isfinite(row.attribution) & np.isfinite(before.attribution)
    return rank_similarity(row.attribution[both], before.attribution[both]) if both.any() else 0.0


def points_at(attribution: np.ndarray, box: np.ndarray) -> float:
    """Return whether the highest place of a map lies in a box; of several highest ones, the share; 0 without any."""
    if not np.isfinite(attribution).any():
        return 0.0
    highest = places()[attribution == np.nanmax(attribution)]
    return float(((highest >= box[:2]) & (highest <= box[2:])).all(axis=1).mean())


def measure_change(
    classifier: Classifier, sample: Sample, change: Change, plain: list[Row], seed: int
) -> list[dict[str, dict]]:
    """Measure one kind of change at each of its levels."""
    levels = []
    for level in change.levels:
        random, rows = np.random.default_rng(seed), []
        for file, label in zip(sample.files, sample.labels.tolist(), strict=True):
            image = read_image(file)
            changed = change.apply(image, level, random)
            changed.info[COLOR_INFO] = image.info.get(COLOR_INFO, 0.0)
            rows.append(look(classifier, changed, label, change.move(places(), level, image.size)))
        levels.append({"level": level} | measure_level(rows, plain, sample, seed))
    return levels


def measure_robustness(request: Request) -> dict:
    """Measure a checkpoint.

    Returns:
        The content of robustness.json.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        DataError: Data or boxes cannot be read, or are not those of the checkpoint's run.
        MethodNotApplicable: Its architecture has no class-activation maps.
    """
    started, classifier = time.perf_counter(), load_checkpoint(request.checkpoint)
    sample = draw_sample(classifier, request)
    plain = [
        look(classifier, read_image(file), label, places())
        for file, label in zip(sample.files, sample.labels.tolist(), strict=True)
    ]
    changes = {
        name: {"unit": change.unit, "levels": measure_change(classifier, sample, change, plain, request.seed)}
        for name, change in tqdm(CHANGES.items(), desc="changes")
    }
    counts = np.bincount(sample.labels, minlength=len(classifier.label_names)).tolist()
    return {
        "checkpoint": {
            "name": checkpoint_folder(request.checkpoint).resolve().name,
            "revision": classifier.info.revision,
        },
        "method": METHOD,
        "split": classifier.metrics["split"],
        "seed": request.seed,
        "n": len(sample),
        "classes": dict(zip(classifier.label_names, counts, strict=True)),
        "interval": Bootstrap(seed=request.seed).describe(),
        "unchanged": measure_level(plain, plain, sample, request.seed),
        "changes": changes,
        "seconds": round(time.perf_counter() - started, 1),
    }


def save_robustness(robustness: dict, folder: Path) -> None:
    """Write the measurements and their figure into a checkpoint folder, and renew its card if there is one."""
    (folder / ROBUSTNESS_FILE).write_text(json.dumps(robustness, indent=1) + "\n", encoding="utf-8")
    (folder / "figures").mkdir(exist_ok=True)
    robustness_figure(robustness, folder / "figures" / "robustness.png")
    if (folder / "README.md").is_file():
        (folder / "README.md").write_text(card_of(folder), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, write the files of the checkpoint folder, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a folder, or bundled/<name>")
    parser.add_argument("--data-dir", required=True, help="the main data of the checkpoint's run")
    parser.add_argument("--boxes", required=True, help="CSV of tumor boxes in the main data, for the pointing game")
    parser.add_argument(
        "--images", type=int, default=Request.images, help="distinct images, equally many of each class"
    )
    parser.add_argument("--seed", type=int, default=Request.seed)
    request = Request(**vars(parser.parse_args(arguments)))
    try:
        robustness = measure_robustness(request)
    except (CheckpointError, DataError, MethodNotApplicable) as error:
        raise SystemExit(f"error: {error}") from error
    save_robustness(robustness, checkpoint_folder(request.checkpoint))
    print(robustness_table(robustness))


if __name__ == "__main__":
    main()
