"""The panel of a checkpoint's maps on right and wrong test answers of each class: figures/maps.png."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brain_xai.classifier import Classifier
from brain_xai.explanation import MethodNotApplicable, color_scale, explain
from brain_xai.methods import METHODS
from brain_xai.overlay import draw_overlay
from training.report.figures import GRAY, save

METHOD = "grad_cam"
# For each class, at most this many right and as many wrong answers.
IMAGES_PER_ANSWER = 2
# Of more classes, those with the most test images are drawn.
MAX_CLASSES = 12


@dataclass(frozen=True)
class PredictedScans:
    """Gray images uint8 [n, H, W] with their true and their predicted class, int64 [n]."""

    pixels: np.ndarray
    references: np.ndarray
    predictions: np.ndarray


def save_maps(classifier: Classifier, scans: PredictedScans, seed: int, path: Path) -> bool:
    """Draw the maps of randomly drawn scans, one row per class, right answers on the left and wrong ones on the right.

    At most `MAX_CLASSES` classes are drawn.

    Args:
        classifier: The model whose maps are drawn.
        scans: The images to draw from.
        seed: The same seed draws the same images.
        path: The PNG file to write.

    Returns:
        Whether the method works on this model; if not, nothing is written.
    """
    try:
        explain(classifier, scans.pixels[0], METHOD)
    except MethodNotApplicable:
        return False
    counts = np.bincount(scans.references, minlength=len(classifier.label_names))
    drawn_classes, columns = np.sort(np.argsort(-counts, kind="stable")[:MAX_CLASSES]), 2 * IMAGES_PER_ANSWER
    figure = Figure(figsize=(2.6 * columns, 2.9 * len(drawn_classes) + 1), layout="constrained")
    grid = figure.subplots(len(drawn_classes), columns, squeeze=False)
    random = np.random.default_rng(seed)
    for target, row in zip(drawn_classes, grid, strict=True):
        of_class, is_right = scans.references == target, scans.predictions == target
        for panels, members in (
            (row[:IMAGES_PER_ANSWER], of_class & is_right),
            (row[IMAGES_PER_ANSWER:], of_class & ~is_right),
        ):
            drawn = random.permutation(np.flatnonzero(members))[:IMAGES_PER_ANSWER]
            for axes, index in zip(panels, drawn, strict=False):
                _draw_map(axes, classifier, scans, index)
            for axes in panels[len(drawn) :]:
                axes.text(0.5, 0.5, "no such\nanswer", ha="center", va="center", fontsize=12, color=GRAY)
    for axes in grid.flat:
        axes.axis("off")
    figure.suptitle(_title(classifier, seed), fontsize=12)
    save(figure, path)
    return True


def _draw_map(axes: Axes, classifier: Classifier, scans: PredictedScans, index: int) -> None:
    """Draw the overlay of one image, titled with its true class and the answer."""
    explanation = explain(classifier, scans.pixels[index], METHOD)
    axes.imshow(draw_overlay(explanation, bar="none"))
    true = classifier.label_names[scans.references[index]]
    probability = max(explanation.prediction.probabilities.values())
    answer = "" if explanation.label == true else f" → {explanation.label}"
    axes.set_title(f"{true}{answer} ({probability:.0%})", fontsize=10)


def _title(classifier: Classifier, seed: int) -> str:
    scale = color_scale(classifier, METHOD)
    return (
        f"{METHODS[METHOD].title} of the predicted class on test scans drawn by seed {seed}\n"
        "left: right answers, right: wrong answers; orange: evidence for the answer, blue: against it; "
        f"full color: {scale:.2g} {METHODS[METHOD].unit}"
    )
