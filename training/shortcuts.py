"""Measure a checkpoint on scans from other sources, and whether its answers hang on how a scan looks.

python -m training.shortcuts --checkpoint runs/resnet18 --data-dir DIR --source DIR:yes=tumor,no=notumor,hold=0.5 …

Measured per source and sequence: how often it is right, how far its probabilities can be trusted, and how often a
harmless change of the image alters the answer; per group of test images that look alike: how often it is right; for the
shortcuts themselves: how well the class can be told without looking at the brain.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.classifier import Classifier
from brain_xai.preprocess import read_image
from training.data.sources import DataError
from training.evaluation.answers import probabilities_of
from training.evaluation.appearance import (
    balanced_accuracy,
    class_from_cues,
    cues_of_files,
    cues_of_view,
    without_brain,
)
from training.evaluation.groups import alike, describe_clusters, gained, groups_of, recognized, worst_and_mean
from training.evaluation.judged import Judged, judge, share, trust_in
from training.evaluation.metrics import Bootstrap
from training.evaluation.unseen import TEST, Part, Unseen, training_settings, unseen_scans
from training.report.card import card_of
from training.report.confidence import confidence_by_source
from training.report.elsewhere import sources_table, worst_group_sentence


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
        JSON: `kinds` of scans, the worst and the mean of the `groups`, `clusters` of test images, `confidence` per
        source, and how well the class can be told from `cues` and from scans `without_brain`.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        DataError: Data cannot be read, or its split is not that of the checkpoint's run.
    """
    classifier, seed = load_checkpoint(request.checkpoint), request.seed
    unseen = unseen_scans(classifier, training_settings(request.checkpoint), request.data_dir, request.sources)
    answers = {kind: probabilities_of(classifier, part.pixels, kind) for kind, part in unseen.kinds.items()}
    random, kinds = np.random.default_rng(seed), {}
    for kind, part in unseen.kinds.items():
        some = np.sort(random.permutation(len(part))[: request.limit])
        mirrored = probabilities_of(classifier, part.pixels[:, :, ::-1].copy(), f"{kind}, mirrored")
        plain, averaged = (
            judge(probabilities, part, unseen.no_tumor)
            for probabilities in (answers[kind], (answers[kind] + mirrored) / 2)
        )
        kinds[kind] = recognized(part, answers[kind], unseen.no_tumor, seed) | {
            "mirror_averaged": gained(plain, averaged, seed),
            "changed_answers": changed_answers(classifier, part.take(some), answers[kind][some], seed),
        }
    looks = alike(unseen, answers[TEST], seed)
    return {
        "checkpoint": {
            "name": checkpoint_folder(request.checkpoint).resolve().name,
            "revision": classifier.info.revision,
        },
        "frame": classifier.preprocessing.frame,
        "seed": seed,
        "interval": Bootstrap(seed=seed).describe() | {"method": "percentile bootstrap by patient or distinct image"},
        "groups": worst_and_mean(groups_of(unseen, answers, looks), seed),
        "kinds": kinds,
        "clusters": describe_clusters(unseen, answers[TEST], looks, seed),
        "confidence": confidence(unseen, answers, seed),
        "cues": cues(unseen, request.data_dir, seed),
        "without_brain": brain_masked_out(classifier, unseen, seed),
    }


def changed_answers(classifier: Classifier, part: Part, probabilities: np.ndarray, seed: int) -> dict:
    """Return per change the share of scans whose answer it changes."""
    originals = [read_image(file) for file in part.files]
    answers, result = probabilities.argmax(axis=1), {}
    for name, change in tqdm(CHANGES.items(), desc="changed answers", leave=False):
        views = [np.asarray(classifier.prepare(change(image)).view.getchannel(0)) for image in originals]
        changed = probabilities_of(classifier, np.stack(views)).argmax(axis=1)
        result[name] = share(changed != answers, part.units, seed)
    return result


def confidence(unseen: Unseen, answers: dict[str, np.ndarray], seed: int) -> dict:
    """Return how far probabilities can be trusted: for the class on the test split; for tumor or not, by source."""
    by_source: dict[str, list[Judged]] = {}
    for kind, part in unseen.kinds.items():
        judged = judge(answers[kind], part, unseen.no_tumor)["tumor_or_not"]
        by_source.setdefault(TEST if kind == TEST else unseen.folders[kind].name, []).append(judged)
    judged = {"test, class": judge(answers[TEST], unseen.kinds[TEST], unseen.no_tumor)["class"]}
    for source, parts in by_source.items():
        columns = ("confidence", "right", "units")
        joined = (np.concatenate([getattr(part, column) for part in parts]) for column in columns)
        judged[source] = Judged(*joined)
    return {name: trust_in(answered, seed) for name, answered in judged.items()}


def cues(unseen: Unseen, data_dir: str, seed: int) -> dict:
    """Return how well the class of a training scan can be told from features that say nothing about tissue.

    "file" are the scans as they come, "view" what the model sees of them: in the end always gray and of one size.
    """
    main, train = unseen.main, unseen.splits.train
    labels, groups = main.labels[train], unseen.groups[train]
    files = [Path(data_dir) / main.files[i] for i in train]
    of_files = cues_of_view(main.thumbnails[train]) | cues_of_files(files)
    seen = {"file": of_files, "view": cues_of_view(main.pixels[train])}
    told = {
        name: class_from_cues(cue, labels, groups, seed) for name, cue in tqdm(seen.items(), desc="cues", leave=False)
    }
    return told | {"chance": 1 / len(main.label_names)}


def brain_masked_out(classifier: Classifier, unseen: Unseen, seed: int) -> dict:
    """Return the balanced accuracy on the test split when the brain is taken out of every image."""
    part = unseen.kinds[TEST]
    labels = part.allowed.argmax(axis=1)
    result = {}
    for name, pixels in without_brain(part.pixels).items():
        answers = probabilities_of(classifier, pixels, name).argmax(axis=1)
        result[name] = balanced_accuracy(answers == labels, labels, part.units, seed)
    return result | {"chance": 1 / len(unseen.main.label_names)}


def save_shortcuts(result: dict, folder: Path) -> None:
    """Write the measurements into metrics.json of a checkpoint folder, draw their figure, renew its card if any."""
    file = folder / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8")) | {"shortcuts": result}
    file.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (folder / "figures").mkdir(exist_ok=True)
    confidence_by_source(result["confidence"], folder / "figures" / "confidence.png")
    if (folder / "README.md").is_file():
        (folder / "README.md").write_text(card_of(folder), encoding="utf-8")


def main() -> None:
    """Parse the command line, measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a folder, or bundled/<name>")
    parser.add_argument("--data-dir", required=True, help="the main data of the checkpoint's run")
    parser.add_argument("--source", nargs="+", default=[], help="as for training/train.py")
    parser.add_argument("--limit", type=int, default=200, help="scans of each kind that are changed (default 200)")
    parser.add_argument("--output", type=Path, help="only this JSON file, and nothing into the checkpoint's folder")
    given = parser.parse_args()
    try:
        result = measure_shortcuts(Request(given.checkpoint, given.data_dir, tuple(given.source), given.limit))
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"error: {error}") from error
    if given.output is None:
        save_shortcuts(result, checkpoint_folder(given.checkpoint))
    else:
        given.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{sources_table(result)}\n\n{worst_group_sentence(result)}")


if __name__ == "__main__":
    main()
