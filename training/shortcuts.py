"""Measure a checkpoint on scans from other sources, and whether its answers hang on how a scan is presented.

python -m training.shortcuts --checkpoint runs/resnet18 --data-dir DIR --source DIR:yes=tumor,no=notumor,hold=0.5 …
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.classifier import Classifier
from brain_xai.preprocess import read_image
from training.data.duplicate_groups import duplicate_groups
from training.data.other_sources import OtherScans, OtherSplits, load_other, parse_source, split_other
from training.data.sources import DataError, Scans, load_scans
from training.data.splits import Splits
from training.evaluation.held_out import recorded_split
from training.evaluation.metrics import Bootstrap
from training.report.tables import sources_table

# The sequence of a scan, where the name of its file tells it.
SEQUENCE = re.compile(r"(?<![A-Za-z0-9])(T1C|T1|T2|FLAIR)(?![A-Za-z0-9])")
BATCH = 64


def _padded(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, round(0.2 * max(image.size)), fill=0)


def _cropped(image: Image.Image) -> Image.Image:
    return ImageOps.crop(image, round(0.06 * min(image.size)))


# Changes that leave the diagnosis as it is.
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "padded": _padded,
    "cropped": _cropped,
    "darker": lambda image: image.point(lambda value: round(0.6 * value)),
    "brighter": lambda image: image.point(lambda value: min(round(1.4 * value), 255)),
    "less contrast": lambda image: image.point(lambda value: round(0.6 * value + 40)),
    "inverted": ImageOps.invert,
    "mirrored": ImageOps.mirror,
}


@dataclass(frozen=True)
class Scored:
    """The answers for some scans.

    `answers` int64 [n] class indices; `allowed` bool [n, classes], the answers that are right; `units` int64 [n], what
    the bootstrap draws: patients or distinct pictures; `files` n paths.
    """

    answers: np.ndarray
    allowed: np.ndarray
    units: np.ndarray
    files: list[Path]

    def take(self, chosen: np.ndarray) -> "Scored":
        """Return the scans at the indices `chosen`."""
        files = [self.files[i] for i in chosen]
        return Scored(self.answers[chosen], self.allowed[chosen], self.units[chosen], files)


@torch.inference_mode()
def answer(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """Return the class index for each of the decoded scans, uint8 [n, H, W], exactly the classifier's view."""
    preprocessing = classifier.preprocessing
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    batches = np.array_split(pixels, -(-len(pixels) // BATCH))
    images = (torch.tensor(batch)[:, None].float() / 255 for batch in batches)
    return torch.cat([classifier.logits((image - mean) / std).argmax(dim=1) for image in images]).numpy()


def share(values: np.ndarray, units: np.ndarray, seed: int) -> dict:
    """Return the mean of `values` [n] with its 95 % bootstrap interval by unit, n and the number of units."""
    weights = Bootstrap(seed=seed).weights(units)
    means = weights @ values / weights.sum(axis=1).clip(min=1)
    low, high = np.percentile(means[1:], (2.5, 97.5))
    value, counts = float(means[0]), {"n": len(values), "units": len(np.unique(units))}
    return {"value": value, "low": float(low), "high": float(high), **counts}


def kinds(other: OtherScans, label_names: Sequence[str], indices: np.ndarray) -> dict[str, np.ndarray]:
    """Group `indices` by source, sequence where known, and label; each is measured on its own."""
    found: dict[str, list[int]] = {}
    for index in indices:
        sequence = SEQUENCE.search(Path(other.files[index]).stem.replace("_", " "))
        label = " or ".join(name for name, may in zip(label_names, other.allowed[index], strict=True) if may)
        words = [other.sources[index], sequence.group() if sequence else "", label]
        found.setdefault(" ".join(filter(None, words)), []).append(index)
    return {kind: np.array(found[kind]) for kind in sorted(found)}


def recognized(scored: Scored, healthy: int, seed: int) -> dict:
    """Return how often tumor and no tumor are told apart rightly, and how often the class is right where known."""
    has_tumor, called_tumor = ~scored.allowed[:, healthy], scored.answers != healthy
    result = {"tumor_or_not": share(has_tumor == called_tumor, scored.units, seed)}
    if (scored.allowed.sum(axis=1) == 1).all():
        right = scored.allowed[np.arange(len(scored.answers)), scored.answers]
        result["class"] = share(right, scored.units, seed)
    return result


def changed_answers(classifier: Classifier, scored: Scored, seed: int) -> dict:
    """Return per change the share of scans whose answer it changes."""
    originals = [read_image(file) for file in scored.files]
    height, width = classifier.preprocessing.size
    result = {}
    for name, change in CHANGES.items():
        views = [classifier.prepare(change(image)).view.getchannel(0) for image in originals]
        changed = answer(classifier, np.stack([np.asarray(view) for view in views]).reshape(-1, height, width))
        result[name] = share(changed != scored.answers, scored.units, seed)
    return result


@dataclass(frozen=True)
class Request:
    """What to measure: `sources` as for `--source` in training, `limit` scans of each kind for the changes."""

    checkpoint: str
    data_dir: str
    sources: tuple[str, ...]
    limit: int = 200
    seed: int = 0


def measure_shortcuts(request: Request) -> dict:
    """Answer the test split and the held-out scans of other sources.

    Returns:
        JSON: how often each kind of scan is answered rightly, and how often a harmless change alters the answer.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        DataError: Data cannot be read, or its split is not that of the checkpoint's run.
    """
    folder = checkpoint_folder(request.checkpoint)
    classifier = load_checkpoint(request.checkpoint)
    training = json.loads((folder / "config.json").read_text(encoding="utf-8"))["brain_xai"].get("training", {})
    preprocessing = classifier.preprocessing
    main = load_scans(
        data_dir=request.data_dir,
        size=preprocessing.size[0],
        interpolation=preprocessing.interpolation,
        framed=preprocessing.frame,
    )
    groups = duplicate_groups(main.thumbnails)
    splits = recorded_split(classifier, training, main, groups)
    scored = {"test": main_test(classifier, request, main, groups, splits.test)}
    scored |= held_out_kinds(classifier, request, training, main, splits)
    healthy = classifier.label_names.index(training["no_tumor_label"])
    random = np.random.default_rng(request.seed)
    results = {}
    for kind, part in scored.items():
        some = part.take(np.sort(random.permutation(len(part.files))[: request.limit]))
        changes = changed_answers(classifier, some, request.seed)
        results[kind] = recognized(part, healthy, request.seed) | {"changed_answers": changes}
    return {
        "checkpoint": {"name": folder.resolve().name, "revision": classifier.info.revision},
        "frame": classifier.preprocessing.frame,
        "seed": request.seed,
        "interval": Bootstrap(seed=request.seed).describe() | {"method": "percentile bootstrap by patient or picture"},
        "kinds": results,
    }


def main_test(classifier: Classifier, request: Request, main: Scans, groups: np.ndarray, test: np.ndarray) -> Scored:
    """Answer the test split of the main data."""
    allowed = np.eye(len(main.label_names), dtype=bool)[main.labels[test]]
    files = [Path(request.data_dir) / main.files[i] for i in test]
    return Scored(answer(classifier, main.pixels[test]), allowed, groups[test], files)


def held_out_kinds(
    classifier: Classifier, request: Request, training: dict, main: Scans, splits: Splits
) -> dict[str, Scored]:
    """Answer what `--source` holds out, by kind of scan."""
    sources = [parse_source(text) for text in request.sources]
    preprocessing = classifier.preprocessing
    other = load_other(sources, main, training["no_tumor_label"], preprocessing.size[0], preprocessing.frame)
    fraction = training["validation_fraction"]
    parts = split_other(main, splits, other, sources, classifier.metrics["seed"], fraction)
    folders = {source.name: Path(source.folder) for source in sources}
    scored = {}
    unseen = never_trained_on(parts, splits, with_sources=bool(training.get("source")))
    for kind, indices in kinds(other, classifier.label_names, unseen).items():
        files = [folders[other.sources[i]] / Path(other.files[i]).relative_to(other.sources[i]) for i in indices]
        answers = answer(classifier, other.pixels[indices])
        scored[kind] = Scored(answers, other.allowed[indices], parts.units[indices], files)
    return scored


def never_trained_on(parts: OtherSplits, splits: Splits, with_sources: bool) -> np.ndarray:
    """Return the held-out scans without a copy among the training images; int64 indices, ascending.

    A run on several sources leaves such copies out of its training; one on the main data alone (not `with_sources`)
    has trained on them.
    """
    trained = np.setdiff1d(splits.train, parts.purged) if with_sources else splits.train
    of_other = parts.groups[len(parts.groups) - len(parts.units) :]
    return parts.held_out[~np.isin(of_other[parts.held_out], parts.groups[trained])]


def main() -> None:
    """Parse the command line, measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a folder, or bundled/<name>")
    parser.add_argument("--data-dir", required=True, help="the main data of the checkpoint's run")
    parser.add_argument("--source", nargs="+", default=[], help="as for training/train.py")
    parser.add_argument("--limit", type=int, default=200, help="scans of each kind that are changed (default 200)")
    parser.add_argument("--output", type=Path, help="JSON file (default: into metrics.json of the checkpoint's folder)")
    given = parser.parse_args()
    request = Request(given.checkpoint, given.data_dir, tuple(given.source), given.limit)
    try:
        result = measure_shortcuts(request)
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"error: {error}") from error
    file, content = given.output, result
    if file is None:
        file = checkpoint_folder(given.checkpoint) / "metrics.json"
        content = json.loads(file.read_text(encoding="utf-8")) | {"shortcuts": result}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(sources_table(result))


if __name__ == "__main__":
    main()
