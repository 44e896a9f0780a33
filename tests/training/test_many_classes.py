"""Fifty classes with one or two test images each: metrics, tables and figures that can be read."""

import warnings

import numpy as np
import pytest
from PIL import Image

from tests.training.test_card import make_config, make_metrics
from training.evaluation.metrics import Bootstrap, compute_metrics
from training.report.card import model_card
from training.report.figures import confusion_matrix, reliability

NAMES = [f"Klasse {number} (größer)" for number in range(50)]


@pytest.fixture(scope="module")
def metrics():
    """Of 40 images, 30 have a class of their own, 10 the last of them; 19 classes have none. Three answers in four."""
    references = np.minimum(np.arange(40), 30)
    answers = np.where(np.arange(40) % 4 == 3, 49, references)
    probabilities = np.full((40, 50), 0.5 / 49)
    probabilities[np.arange(40), answers] = 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test = compute_metrics(
            probabilities=probabilities,
            references=references,
            groups=np.arange(40),
            label_names=NAMES,
            bootstrap=Bootstrap(samples=50),
        )
    return make_metrics() | {"test": test}


def test_classes_without_images_are_left_out_of_the_means(metrics):
    test = metrics["test"]
    assert test["accuracy"]["value"] == 0.75
    # 30 classes of one image, of which 3, 7, 11, … are wrong; the last has 10, of which 31, 35 and 39 are wrong.
    assert test["balanced_accuracy"]["value"] == pytest.approx((30 - 7 + 0.7) / 31)
    assert test["recall"][NAMES[40]]["value"] is None
    assert test["auroc"][NAMES[40]]["value"] is None
    # Every answer has probability .5: one bin, and its gap.
    assert test["ece"]["value"] == pytest.approx(0.25)


def test_the_card_names_every_class_but_prints_no_table_of_2500_fields(metrics):
    config = make_config() | {"label_names": NAMES}
    card = model_card(config, metrics)
    assert all(f"`{name}`" in card for name in NAMES)
    assert "With 50 classes it is only drawn, below." in card
    assert max(map(len, card.split("## Results")[1].splitlines())) < 500


def test_the_figures_can_be_opened(metrics, tmp_path):
    confusion_matrix(metrics, tmp_path / "confusion_matrix.png")
    reliability(metrics, tmp_path / "reliability.png")
    with Image.open(tmp_path / "confusion_matrix.png") as figure:
        assert max(figure.size) < 4000
