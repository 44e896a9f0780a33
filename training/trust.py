"""Fit what a checkpoint needs to recognize images unlike its training scans, and write it into its config.json.

python -m training.trust --checkpoint runs/resnet18 --data-dir DIR --source DIR:hold=0.3 …

The thresholds come from the validation scans; neither test scans nor any image of another kind are used.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.classifier import Classifier
from brain_xai.trust import Trust
from training.data.duplicate_groups import duplicate_groups
from training.data.pool import Pool, make_pool
from training.data.sources import DataError, load_scans
from training.data.splits import SplitIdentity, TrainingData
from training.evaluation.held_out import for_views, recorded_split
from training.learning.settings import TrainConfig

AXES = 48
# Shares of the validation scans that may be called unusual, and no brain MRI.
UNUSUAL, NOT_BRAIN_MRI = 0.01, 0.004
# Share of the right answers on validation that may be called close.
CLOSE = 0.05


def fit_trust(features: np.ndarray, kinds: np.ndarray, axes: int = AXES) -> Trust:
    """Fit distances to training scans, float [n, d], of `kinds` int [n]; the thresholds are still infinite."""
    mean, scale = features.mean(axis=0), features.std(axis=0).clip(min=1e-6)
    scaled = (features - mean) / scale
    # Directions by falling variance.
    directions = np.linalg.svd(scaled, full_matrices=False)[2][: min(axes, features.shape[1] - 1)].T
    along = scaled @ directions
    centers = np.stack([along[kinds == kind].mean(axis=0) for kind in np.unique(kinds)])
    spread = (along - centers[np.unique(kinds, return_inverse=True)[1]]).std(axis=0).clip(min=1e-6)
    rest = (scaled**2).sum(axis=1) - (along**2).sum(axis=1)
    return Trust(mean, scale, directions, spread, float(np.sqrt(rest.mean())), centers, np.inf, np.inf, 0.0)


def with_thresholds(trust: Trust, features: np.ndarray, margins: np.ndarray, right: np.ndarray) -> Trust:
    """Set the thresholds on validation scans: float [n, d], their margins [n] and whether their answers are right."""
    distances = trust.distance(features)
    unusual, foreign = np.quantile(distances, (1 - UNUSUAL, 1 - NOT_BRAIN_MRI))
    limits = {"unusual": float(unusual), "not_brain_mri": float(foreign)}
    return Trust(**vars(trust) | limits | {"low_margin": float(np.quantile(margins[right], CLOSE))})


def features_and_probabilities(classifier: Classifier, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features [n, d] and probabilities [n, classes] of the classifier's views, uint8 [n, H, W]."""
    classifier = for_views(classifier)
    inputs = [classifier.prepare(Image.fromarray(image)) for image in pixels]
    outputs = [classifier.forward(model_input.pixel_values) for model_input in inputs]
    features = np.stack([classifier.features(*pair) for pair in zip(outputs, (i.view for i in inputs), strict=True)])
    logits = torch.cat([output.logits for output in outputs])
    return features, torch.softmax(logits.double() / classifier.temperature, dim=1).numpy()


def recorded_pool(
    classifier: Classifier, training: Mapping, data_dir: str, sources: Sequence[str]
) -> tuple[Pool, np.ndarray]:
    """Return the scans that the checkpoint's run drew from, and the indices of its validation scans."""
    preprocessing = classifier.preprocessing
    size = preprocessing.size[0]
    scans = load_scans(data_dir, size=size, interpolation=preprocessing.interpolation, framed=preprocessing.frame)
    groups = duplicate_groups(scans.thumbnails)
    splits = recorded_split(classifier, training, scans, groups)
    data = TrainingData(scans, groups, splits, SplitIdentity.of(classifier.metrics))
    settings = TrainConfig(
        "",
        data_dir=data_dir,
        sizes=f"{size}:1",
        frame=preprocessing.frame,
        source=list(sources),
        seed=data.identity.seed,
        validation_fraction=training["validation_fraction"],
        no_tumor_label=training["no_tumor_label"],
    )
    pool = make_pool(settings, data, print)
    return pool, np.concatenate([splits.validation, *pool.validation.values()])


def trust_of(classifier: Classifier, pool: Pool, validation: np.ndarray, seed: int = 0) -> Trust:
    """Fit on one copy of each distinct training image, with the thresholds of the validation scans."""
    train = np.random.default_rng(seed).permutation(pool.train)
    train = train[np.unique(pool.groups[train], return_index=True)[1]]
    kinds = dict(zip(pool.train.tolist(), (pool.labels[pool.train] if pool.cells is None else pool.cells), strict=True))
    features, _ = features_and_probabilities(classifier, pool.pixels[train])
    trust = fit_trust(features, np.array([kinds[index] for index in train.tolist()]))
    features, probabilities = features_and_probabilities(classifier, pool.pixels[validation])
    ordered = np.sort(probabilities, axis=1)
    right = pool.label_sets[pool.labels[validation], probabilities.argmax(axis=1)]
    return with_thresholds(trust, features, ordered[:, -1] - ordered[:, -2], right)


def main() -> None:
    """Parse the command line, fit, and write the result into the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder of a checkpoint")
    parser.add_argument("--data-dir", required=True, help="the main data of the checkpoint's run")
    parser.add_argument(
        "--source", nargs="+", default=[], help="the other sources of its run, as for training/train.py"
    )
    given = parser.parse_args()
    file = Path(given.checkpoint) / "config.json"
    try:
        classifier = load_checkpoint(checkpoint_folder(given.checkpoint))
        config = json.loads(file.read_text(encoding="utf-8"))
        pool, validation = recorded_pool(
            classifier, config["brain_xai"].get("training", {}), given.data_dir, given.source
        )
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"error: {error}") from error
    trust = trust_of(classifier, pool, validation)
    config["brain_xai"]["trust"] = trust.to_json()
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    limits = f"unusual from {trust.unusual:.2f}, no brain MRI from {trust.not_brain_mri:.2f}"
    print(f"Distance: {limits}. A call is close below a margin of {trust.low_margin:.2f}.")


if __name__ == "__main__":
    main()
