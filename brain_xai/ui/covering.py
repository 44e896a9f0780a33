"""Cover it yourself: a visitor covers spots of the scan, and the model answers for the rest."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from brain_xai.areas import find_areas
from brain_xai.classifier import Classifier, Prediction
from brain_xai.cover import cover
from brain_xai.explanation import Explanation
from brain_xai.preprocess import to_original
from brain_xai.ui import texts
from brain_xai.ui.language import _
from brain_xai.ui.wording import bars, percent, rows, sentence

# Radius of a spot, as a fraction of the scan's longer side.
RADIUS = 0.07
# A stroke of more points than this was not drawn on the page.
MAX_POINTS = 500

Point = tuple[float, float]


def with_spots(covered: np.ndarray | None, points: Sequence[Point], size: tuple[int, int]) -> np.ndarray:
    """Return what is covered, bool [H, W], with further spots around `points` in fractions of width and height."""
    width, height = size
    mask = Image.new("1", size) if covered is None else Image.fromarray(covered)
    draw, radius = ImageDraw.Draw(mask), RADIUS * max(size)
    for x, y in points[:MAX_POINTS]:
        draw.ellipse((x * width - radius, y * height - radius, x * width + radius, y * height + radius), fill=1)
    return np.array(mask)


def strongest_area(classifier: Classifier, explanation: Explanation, gray: Image.Image) -> np.ndarray | None:
    """Return the strongest area of a map as a mask of the original, bool [H, W]; None if nothing stands out."""
    areas = find_areas(explanation.attribution, explanation.scale).masks
    if not areas:
        return None
    return to_original(areas[0].astype(np.float32), gray, classifier.preprocessing) >= 0.5


def ask(classifier: Classifier, gray: Image.Image, covered: np.ndarray, before: Prediction) -> tuple[str, list]:
    """Return what the model answers for the rest, beside its answer `before`: HTML, and the rows of the classes."""
    after = cover(classifier, gray, covered)
    choices = rows(after, before)
    label = before.label
    change = _(
        texts.COVERED,
        now=sentence(classifier, after),
        label=texts.heading(label),
        before=percent(before.probabilities[label]),
        after=percent(after.probabilities[label]),
    )
    return f"<p>{change}</p>{bars(after, choices)}", choices
