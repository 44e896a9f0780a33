"""Measure how good the maps of a checkpoint are, on images with a tumor box that it was not trained on.

python -m training.explanations --checkpoint bundled/resnet18 --data-dir DIR --boxes DIR/boxes.csv

With the `--source …` of the training run and boxes of one of these sources, the maps are measured on scans held out of
that source instead, and added to what was measured before.

Writes `explanations.json`, `figures/explanations.png` and the card of the checkpoint folder, and prints a table. The
check with randomly labeled data (Adebayo et al. 2018) is left out: it needs a second training run to a perfect fit.
"""

import hashlib
import json
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from transformers import HfArgumentParser

from brain_xai.checkpoint.catalog import checkpoint_folder, is_on_hub, load_checkpoint
from brain_xai.checkpoint.folder import read_explanations
from brain_xai.checkpoint.schema import CheckpointError
from brain_xai.classifier import Classifier
from brain_xai.methods import METHODS
from training.data.sources import DataError
from training.evaluation.held_out import BoxedScans, for_views, held_out_scans
from training.evaluation.map_quality import CONSENSUS, Benchmark, measure_all
from training.evaluation.maps_elsewhere import boxed_elsewhere, measure_elsewhere
from training.evaluation.metrics import Bootstrap
from training.evaluation.unseen import training_settings, unseen_scans
from training.learning.settings import command_without_paths
from training.report.card import card_of
from training.report.figures import explanation_quality
from training.report.tables import explanations_table, maps_elsewhere_table

FILE = "explanations.json"
PACKAGES = ("torch", "timm", "captum", "numpy")


@dataclass(frozen=True)
class MapSettings:
    """What is measured; every field is a flag of the command."""

    checkpoint: str = field(metadata={"help": "bundled/<name> or a checkpoint folder."})
    data_dir: str = field(metadata={"help": "The data that the checkpoint was trained on."})
    boxes: str = field(metadata={"help": "CSV of file, x_min, y_min, x_max, y_max in fractions of width and height."})
    methods: list[str] | None = field(
        default=None, metadata={"help": "Keys of METHODS; all if not given. Replaces what was measured before."}
    )
    limit: int | None = field(
        default=None,
        metadata={"help": "Most images for each method. If not given: all; 100 for expensive methods."},
    )
    target: Literal["true", "predicted"] = field(
        default="true", metadata={"help": "The class that is explained; localization usually takes the true one."}
    )
    baseline: Literal["black", "blurred"] = field(default="black", metadata={"help": "What replaces pixels for SRG."})
    seed: int = 0
    device: str | None = field(default=None, metadata={"help": "Such as cuda; the CPU if not given."})
    source: list[str] = field(
        default_factory=list, metadata={"help": "As for training; the boxes then belong to one of these sources."}
    )

    def command(self) -> str:
        """Return the command line of these settings; of paths only the names, as folders can contain user names."""
        words = ["python", "-m", "training.explanations"]
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value in (setting.default, []):
                continue
            if setting.name == "checkpoint" and not value.startswith("bundled/"):
                value = Path(value).name
            words += [f"--{setting.name.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)])]
        return command_without_paths(shlex.join(words))


def measure_explanations(settings: MapSettings) -> dict:
    """Measure the maps of a checkpoint.

    Returns:
        The content of explanations.json.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        DataError: Data or boxes cannot be read, or are not those of the checkpoint's run.
        ValueError: A method does not exist, or none works on this architecture.
    """
    started = time.perf_counter()
    classifier = load_checkpoint(settings.checkpoint, settings.device)
    not_applicable, methods = choose_methods(classifier, settings.methods)
    benchmark = build_benchmark(settings, classifier)
    measured = measure_all(benchmark, methods, predict(benchmark.classifier, benchmark.sets["test"], settings.limit))
    return {
        **describe_benchmark(settings, benchmark),
        **measured,
        "not_applicable": not_applicable,
        "versions": {package: version(package) for package in PACKAGES},
        "command": settings.command(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def measure_maps_elsewhere(settings: MapSettings) -> dict:
    """Measure the maps of a checkpoint on the boxed scans held out of its other sources.

    Returns:
        What explanations.json holds as "elsewhere".

    Raises:
        CheckpointError, DataError, ValueError: As `measure_explanations`.
    """
    started, classifier = time.perf_counter(), load_checkpoint(settings.checkpoint, settings.device)
    _, methods = choose_methods(classifier, settings.methods)
    unseen = unseen_scans(classifier, training_settings(settings.checkpoint), settings.data_dir, settings.source)
    framed = classifier.preprocessing.frame
    scans, kinds = boxed_elsewhere(unseen, framed, settings.boxes, settings.seed)
    return {
        "seed": settings.seed,
        "interval": Bootstrap(seed=settings.seed).describe() | {"method": "percentile bootstrap by patient"},
        "kinds": measure_elsewhere(classifier, scans, kinds, methods, settings.limit, settings.seed),
        "command": settings.command(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def build_benchmark(settings: MapSettings, classifier: Classifier) -> Benchmark:
    """Choose the held-out images and the classes to explain; raises `DataError`."""
    training = training_settings(settings.checkpoint)
    sets = held_out_scans(classifier, training, settings.data_dir, settings.boxes, settings.seed)
    classifier = for_views(classifier)  # framed again, the images would move in their boxes
    targets = {name: scans.labels for name, scans in sets.items()}
    if settings.target == "predicted":
        targets = {name: predict(classifier, scans, settings.limit) for name, scans in sets.items()}
    return Benchmark(classifier, sets, targets, settings.limit, settings.seed, settings.baseline)


def describe_benchmark(settings: MapSettings, benchmark: Benchmark) -> dict:
    """Return what was measured: the checkpoint, the images, and how."""
    classifier = benchmark.classifier
    return {
        "checkpoint": {
            "name": checkpoint_folder(settings.checkpoint).resolve().name,
            "revision": classifier.info.revision,
            "architecture": classifier.info.architecture,
        },
        "split": classifier.metrics["split"],
        "target": settings.target,
        "baseline": settings.baseline,
        "seed": settings.seed,
        "limit": settings.limit,
        "data": {"fingerprint": classifier.metrics["data"]["fingerprint"]},
        "boxes": {"fingerprint": hashlib.sha256(Path(settings.boxes).read_bytes()).hexdigest()[:12]},
        "image_size": list(classifier.preprocessing.size),
        "sets": {name: class_counts(scans, classifier.label_names) for name, scans in benchmark.sets.items()},
        "interval": Bootstrap(seed=settings.seed).describe(),
    }


def choose_methods(classifier: Classifier, methods: Iterable[str] | None) -> tuple[dict[str, str], list[str]]:
    """Return why some methods cannot work on the classifier, and the others, with the consensus last."""
    named = list(METHODS) if methods is None else list(methods)
    if unknown := set(named) - set(METHODS):
        raise ValueError(f"There is no method {', '.join(sorted(unknown))}. There are: {', '.join(METHODS)}.")
    reasons = {method: METHODS[method].reason_unsupported(classifier) for method in named}
    chosen = [method for method in named if reasons[method] is None]
    if not chosen:
        raise ValueError(f"None of the methods works on {classifier.info.architecture}.")
    return {method: reason for method, reason in reasons.items() if reason}, sorted(chosen, key=CONSENSUS.__eq__)


def predict(classifier: Classifier, scans: BoxedScans, limit: int | None) -> np.ndarray:
    """Return the predicted class of each of the first `limit` images, int64 [n]."""
    inputs = (classifier.prepare(image) for image in scans.pixels[:limit])
    return np.array([int(classifier.logits(model_input.pixel_values)[0].argmax()) for model_input in inputs])


def class_counts(scans: BoxedScans, label_names: Sequence[str]) -> dict:
    """Return the number of images, and of each class."""
    counts = np.bincount(scans.labels, minlength=len(label_names)).tolist()
    return {"n": len(scans), "classes": dict(zip(label_names, counts, strict=True))}


def measure(settings: MapSettings) -> dict:
    """Measure the maps at home or, with `source`, elsewhere, and keep what the checkpoint records of the other.

    Returns:
        The content of explanations.json.

    Raises:
        CheckpointError, DataError, ValueError: As `measure_explanations`.
    """
    if is_on_hub(settings.checkpoint):
        raise CheckpointError(f"{settings.checkpoint} is neither a bundled checkpoint nor a folder.")
    before = read_explanations(checkpoint_folder(settings.checkpoint))
    if not settings.source:
        return measure_explanations(settings) | {key: before[key] for key in ("elsewhere",) if key in before}
    if not before:
        raise DataError("First measure the maps with the boxes of the main data, without --source.")
    return before | {"elsewhere": measure_maps_elsewhere(settings)}


def save_explanations(explanations: dict, folder: Path) -> None:
    """Write the measurements and their figure into a checkpoint folder, and renew its card if there is one."""
    (folder / FILE).write_text(json.dumps(explanations, indent=1) + "\n", encoding="utf-8")
    (folder / "figures").mkdir(exist_ok=True)
    explanation_quality(explanations, folder / "figures" / "explanations.png")
    if (folder / "README.md").is_file():
        (folder / "README.md").write_text(card_of(folder), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the files of the checkpoint folder, and print a table."""
    parser = HfArgumentParser(MapSettings, prog="python -m training.explanations", description=__doc__.splitlines()[0])
    (settings,) = parser.parse_dict(vars(parser.parse_args(arguments)))  # which tells an unknown flag in a sentence
    try:
        explanations = measure(settings)
    except (DataError, CheckpointError, ValueError) as error:
        parser.error(str(error))
    save_explanations(explanations, checkpoint_folder(settings.checkpoint))
    if settings.source:
        print(maps_elsewhere_table(explanations["elsewhere"]))
    else:
        print(explanations_table(explanations))
    seconds = (explanations["elsewhere"] if settings.source else explanations)["seconds"]
    print(f"\n{seconds:.0f} seconds; all numbers are in {FILE} of the checkpoint.")


if __name__ == "__main__":
    main()
