"""The panel of a checkpoint's maps on right and wrong test scans of each class: figures/maps.png."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from brain_xai.classifier import Classifier
from brain_xai.explanation import MethodNotApplicable, color_scale, explain
from brain_xai.methods import METHODS
from brain_xai.overlay import BAR_HEIGHT, draw_overlay
from training.report.figures import GREY, save

METHOD = "grad_cam"
# Of each class, so many right and as many wrong answers, where there are any.
PICTURES = 2


@dataclass(frozen=True)
class Answers:
    """What a checkpoint says to pictures: `pixels` uint8 [n, H, W], and true and predicted class, int64 [n]."""

    pixels: np.ndarray
    references: np.ndarray
    predictions: np.ndarray


def save_maps(classifier: Classifier, answers: Answers, seed: int, path: Path) -> bool:
    """Draw the maps of scans drawn by seed, a row for each class; returns False where the method does not work."""
    try:
        explain(classifier, Image.fromarray(answers.pixels[0]), METHOD)
    except MethodNotApplicable:
        return False
    labels, columns = classifier.label_names, 2 * PICTURES
    figure = Figure(figsize=(2.6 * columns, 2.9 * len(labels) + 1), layout="constrained")
    grid = figure.subplots(len(labels), columns, squeeze=False)
    random = np.random.default_rng(seed)
    for target, row in enumerate(grid):
        of_class = answers.references == target
        is_right = answers.predictions == target
        for places, chosen in ((row[:PICTURES], of_class & is_right), (row[PICTURES:], of_class & ~is_right)):
            drawn = random.permutation(np.flatnonzero(chosen))[:PICTURES]
            for place, index in zip(places, drawn, strict=False):
                _draw(place, classifier, answers, index)
            for place in places[len(drawn) :]:
                place.text(0.5, 0.5, "no such\nanswer", ha="center", va="center", fontsize=12, color=GREY)
    for place in grid.flat:
        place.axis("off")
    scale = color_scale(classifier, METHOD)
    figure.suptitle(
        f"{METHODS[METHOD].title} of the predicted class on test scans drawn by seed {seed}\n"
        "left: right answers, right: wrong ones; orange speaks for the answer, blue against; "
        f"full colour: {scale:.2g} {METHODS[METHOD].unit}",
        fontsize=12,
    )
    save(figure, path)
    return True


def _draw(place: Axes, classifier: Classifier, answers: Answers, index: int) -> None:
    explanation = explain(classifier, Image.fromarray(answers.pixels[index]), METHOD)
    picture = draw_overlay(explanation)
    place.imshow(picture.crop((0, 0, picture.width, picture.height - BAR_HEIGHT)))
    true = classifier.label_names[answers.references[index]]
    probability = max(explanation.prediction.probabilities.values())
    said = "" if explanation.label == true else f" → {explanation.label}"
    place.set_title(f"{true}{said} ({probability:.0%})", fontsize=10)
