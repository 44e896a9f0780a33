"""What speaks most strongly against "no tumor" is outlined and named where a warning says that there is such a spot."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops

from brain_xai import Explanation, explain, load_checkpoint
from brain_xai.classifier import PredictionWarning
from brain_xai.ui import contrary, updates
from brain_xai.ui.session import Question, Session
from brain_xai.ui.viewer import draw_map


@pytest.fixture
def pale(tiny) -> Explanation:
    """A map with one spot at a quarter of full color, against the class, on the upper left of a bright disk."""
    classifier = replace(load_checkpoint(tiny), warnings=(PredictionWarning(contrary.WARNING, "A spot."),))
    rows, columns = np.mgrid[:200, :200]
    disk = (np.hypot(rows - 100, columns - 100) < 80).astype(np.uint8) * 120
    explanation = explain(classifier, Image.fromarray(disk))
    height, width = explanation.attribution.shape
    attribution = np.zeros((height, width), dtype=np.float32)
    attribution[height // 4 : height // 3, width // 4 : width // 3] = -explanation.scale / 4
    return replace(explanation, attribution=attribution)


def test_the_spot_is_found_however_pale_it_is_and_named(pale, tiny):
    assert contrary.where(pale) == "upper left in the image"
    caption = updates.words(Question(Session(explanation=pale)), load_checkpoint(tiny))
    assert "Nothing speaks clearly for this class." in caption
    assert "outlined: upper left in the image" in caption


def test_the_outline_is_drawn_around_the_spot_and_nowhere_else(pale):
    drawn = draw_map(Question(Session()), pale)
    assert drawn.size == pale.image(bar="none").size
    left, top, right, bottom = ImageChops.difference(drawn, pale.image(bar="none")).getbbox()
    assert 0.15 * drawn.width < left < right < 0.45 * drawn.width
    assert 0.15 * drawn.height < top < bottom < 0.45 * drawn.height
    assert draw_map(Question(Session()), pale, bar="words").height > drawn.height


def test_without_the_warning_or_for_another_class_nothing_is_outlined(pale):
    prediction = replace(pale.prediction, warnings=())
    other = next(label for label in prediction.probabilities if label != pale.label)
    unsigned = replace(pale, signed=False)
    for explanation in (replace(pale, prediction=prediction), replace(pale, label=other), unsigned):
        assert contrary.spot(explanation) is None
        assert contrary.where(explanation) is None
