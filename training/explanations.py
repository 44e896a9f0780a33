"""Measure how good the maps of a checkpoint are, on pictures with a tumour box that it was not trained on.

python -m training.explanations --checkpoint bundled/resnet18 --data-dir DIR --boxes DIR/boxes.csv

Writes `explanations.json`, `figures/explanations.png` and the card of the checkpoint folder, and prints a table. The
check with randomly labelled data (Adebayo et al. 2018) is left out: it needs a second training run to a perfect fit.
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from brain_xai.checkpoint.catalog import BUNDLED, load_checkpoint
from brain_xai.checkpoint.schema import CheckpointError
from brain_xai.classifier import Classifier
from brain_xai.methods import METHODS
from training.data.sources import DataError
from training.evaluation.held_out import BoxedScans, held_out_scans
from training.evaluation.map_quality import BOOTSTRAP_SAMPLES, CONSENSUS, Measuring, measure_all
from training.evaluation.metrics import INTERVAL_LEVEL
from training.report.card import card_of
from training.report.figures import explanation_quality
from training.report.tables import explanations_table

FILE = "explanations.json"
VERSIONS_OF = ("torch", "timm", "captum", "numpy")


def measure_explanations(
    checkpoint: str,
    data_dir: str,
    boxes: str,
    methods: Iterable[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    target: str = "true",
    baseline: str = "black",
    command: str = "",
) -> dict:
    """Measure the methods, write `explanations.json`, figure and card, and return the content of the file.

    `checkpoint` is "bundled/<name>" or a folder. `limit` is the most test images any method is measured on; None: every
    image for cheap methods, fewer for expensive ones, by their declared cost. `target` is "true" (the label of the box,
    as is usual for localization) or "predicted"; `baseline` is what replaces pixels for SRG, "black" or "blurred".
    Raises `DataError`, `CheckpointError` and, for a method that does not exist, `ValueError`.
    """
    started = time.perf_counter()
    folder = BUNDLED / Path(checkpoint).name if checkpoint.startswith("bundled/") else Path(checkpoint)
    classifier = load_checkpoint(checkpoint if checkpoint.startswith("bundled/") else folder)
    refused, chosen = choose_methods(classifier, methods)
    training = json.loads((folder / "config.json").read_text(encoding="utf-8"))["brain_xai"].get("training", {})
    sets = held_out_scans(classifier, training, data_dir, boxes, seed)
    answers = {name: predictions(classifier, scans.pixels[:limit]) for name, scans in sets.items()}
    targets = answers if target == "predicted" else {name: scans.labels for name, scans in sets.items()}
    measured = measure_all(Measuring(classifier, sets, targets, limit, seed, baseline), chosen, answers["test"])
    content = {
        "checkpoint": {
            "name": folder.resolve().name,
            "revision": classifier.info.revision,
            "architecture": classifier.info.architecture,
        },
        "split": classifier.metrics["split"],
        "target": target,
        "baseline": baseline,
        "seed": seed,
        "limit": limit,
        "data": {"fingerprint": classifier.metrics["data"]["fingerprint"]},
        "boxes": {"fingerprint": hashlib.sha256(Path(boxes).read_bytes()).hexdigest()[:12]},
        "image_size": list(classifier.preprocessing.size),
        "sets": {name: describe(scans, classifier.label_names) for name, scans in sets.items()},
        "interval": {
            "level": INTERVAL_LEVEL,
            "method": "percentile bootstrap by duplicate group",
            "samples": BOOTSTRAP_SAMPLES,
            "seed": seed,
        },
        **measured,
        "not_applicable": refused,
        "versions": {name: version(name) for name in VERSIONS_OF},
        "command": command,
        "seconds": round(time.perf_counter() - started, 1),
    }
    save(content, folder)
    return content


def save(content: dict, folder: Path) -> None:
    """Write the numbers and their figure into a checkpoint folder, and its card anew where it has one."""
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "figures").mkdir(exist_ok=True)
    explanation_quality(content, folder / "figures" / "explanations.png")
    if (folder / "README.md").is_file():
        (folder / "README.md").write_text(card_of(folder), encoding="utf-8")


def choose_methods(classifier: Classifier, methods: Iterable[str] | None) -> tuple[dict[str, str], list[str]]:
    """Return why some methods cannot work on the classifier, and the others, the consensus of them last."""
    named = list(METHODS) if methods is None else list(methods)
    if unknown := set(named) - set(METHODS):
        raise ValueError(f"There is no method {', '.join(sorted(unknown))}. There are: {', '.join(METHODS)}.")
    reasons = {method: METHODS[method].reason_unsupported(classifier) for method in named}
    chosen = [method for method in named if reasons[method] is None]
    if not chosen:
        raise ValueError(f"None of the methods works on {classifier.info.architecture}.")
    return {method: reason for method, reason in reasons.items() if reason}, sorted(chosen, key=CONSENSUS.__eq__)


def predictions(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """Return the predicted class of each picture, int64 [n]."""
    images = (classifier.prepare(Image.fromarray(picture)) for picture in pixels)
    return np.array([int(classifier.logits(image.pixel_values)[0].argmax()) for image in images])


def describe(scans: BoxedScans, label_names: Sequence[str]) -> dict:
    counts = np.bincount(scans.labels, minlength=len(label_names)).tolist()
    return {"n": len(scans), "classes": dict(zip(label_names, counts, strict=True))}


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m training.explanations", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="bundled/<name> or a checkpoint folder")
    parser.add_argument("--data-dir", required=True, help="the data that the checkpoint was trained on")
    parser.add_argument("--boxes", required=True, help="CSV of file, x_min, y_min, x_max, y_max in fractions")
    parser.add_argument("--methods", nargs="+", help="keys of METHODS; all by default")
    parser.add_argument("--limit", type=int, help="most images for each method; default: all, expensive ones 100")
    parser.add_argument("--target", choices=("true", "predicted"), default="true", help="the class that is explained")
    parser.add_argument("--baseline", choices=("black", "blurred"), default="black", help="replaces pixels for SRG")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "training.explanations", *arguments])
    try:
        content = measure_explanations(**vars(options), command=command)
    except (DataError, CheckpointError, ValueError) as error:
        parser.error(str(error))
    print(explanations_table(content))
    print(f"\n{content['seconds']:.0f} seconds; all numbers are in {FILE} of the checkpoint.")


if __name__ == "__main__":
    main()
