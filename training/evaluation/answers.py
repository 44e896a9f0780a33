"""The calibrated answers of a stored checkpoint for decoded scans."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from brain_xai.checkpoint.catalog import load_checkpoint
from brain_xai.classifier import Classifier
from training.evaluation.unseen import load_main, training_settings

BATCH = 64


@dataclass(frozen=True)
class TestAnswers:
    """What a checkpoint answers on the test split of its own run.

    Attributes:
        probabilities: Calibrated, float64 [n, classes].
        labels: The true classes, int64 [n].
        groups: The duplicate groups, int64 [n].
        files: The names of the images, relative to the data folder.
        label_names: The classes.
        no_tumor_label: The index of the class without a tumor, None if there is none.
    """

    __test__ = False  # not a test class, whatever its name begins with

    probabilities: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    files: list[str]
    label_names: tuple[str, ...]
    no_tumor_label: int | None


@torch.inference_mode()
def probabilities_of(classifier: Classifier, pixels: np.ndarray, name: str | None = None) -> np.ndarray:
    """Return calibrated probabilities, float64 [n, classes], for views uint8 [n, H, W]; `name` shows a progress bar."""
    preprocessing = classifier.preprocessing
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    batches = np.array_split(pixels, max(-(-len(pixels) // BATCH), 1))
    batches = tqdm(batches, name, leave=False, disable=name is None)
    images = (torch.tensor(batch)[:, None].float() / 255 for batch in batches)
    logits = torch.cat([classifier.logits((image - mean) / std) for image in images])
    return torch.softmax(logits.double() / classifier.temperature, dim=1).numpy()


def answers_on_test(checkpoint: str, data_dir: str) -> TestAnswers:
    """Answer the test split of a checkpoint's own run.

    Args:
        checkpoint: A folder, or `bundled/<name>`.
        data_dir: The data it was trained on.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        DataError: The data or the split is not that of the run.
    """
    classifier, training = load_checkpoint(checkpoint), training_settings(checkpoint)
    scans, groups, splits = load_main(classifier, training, data_dir)
    test = splits.test
    names, no_tumor = classifier.label_names, training.get("no_tumor_label")
    return TestAnswers(
        probabilities=probabilities_of(classifier, scans.pixels[test]),
        labels=scans.labels[test],
        groups=groups[test],
        files=[scans.files[i] for i in test],
        label_names=names,
        no_tumor_label=names.index(no_tumor) if no_tumor in names else None,
    )
