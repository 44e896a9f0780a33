"""What is plainly no brain MRI, and the plain measures of an image and its view."""

import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

from brain_xai.levels import LEVELS, counts_of, percentiles
from brain_xai.looks import DESCRIBED, FRACTIONS, MEASURED, look_at
from brain_xai.preprocess import Preprocessing, prepare
from tests.helpers.scans import LABELS, make_scan

BLACK, WHITE = Image.new("L", (96, 96)), Image.new("L", (96, 96), 255)


def is_foreign(image: Image.Image, color_share: float = 0.0) -> bool:
    return look_at(image, image, color_share).plainly_foreign


@pytest.mark.parametrize("label", LABELS)
def test_a_scan_is_not_plainly_foreign(label):
    scan = make_scan(label, 1).convert("L")
    assert not is_foreign(scan, color_share=0.1)
    assert is_foreign(scan, color_share=0.2)


def test_blank_white_and_long_images_are_plainly_foreign():
    scan = make_scan("glioma", 1).convert("L")
    pale = scan.point(lambda value: 100 + value // 20)  # 13 gray levels
    page = WHITE.copy()
    page.paste(BLACK, (0, 60))  # white on 62 %
    strip = ImageOps.pad(scan, (260, 100))
    assert [is_foreign(image) for image in (BLACK, WHITE, pale, page, strip)] == [True] * 5
    assert not is_foreign(ImageOps.pad(scan, (240, 100)))


def test_measures_are_finite_and_as_many_for_any_image():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8))
    for image in (BLACK, WHITE, make_scan("glioma", 1).convert("L"), noise):
        looks = look_at(image, image.resize((64, 64)), 0.0)
        assert np.isfinite(looks.measures).all()
        assert np.isfinite(looks.view).all()
        assert (looks.view.shape, looks.measures.shape) == ((DESCRIBED,), (MEASURED,))


def test_measures_see_the_form_and_the_margins():
    wide = look_at(BLACK.resize((192, 96)), BLACK, 0.0).measures
    assert wide[0] == pytest.approx(np.log(2))
    black_and_white = look_at(BLACK, WHITE, 0.0).measures
    assert black_and_white[[1, 13]].tolist() == [1, 0], "the dark share of the whole image and of its view"
    framed = WHITE.copy()
    framed.paste(BLACK.crop((0, 0, 90, 90)), (3, 3))
    margins = look_at(framed, BLACK, 0.0).measures[25:35]
    assert margins[[0, 2, 6, 7, 8, 9]].tolist() == [1] * 6, "all four margins are white"


def test_the_description_of_known_views():
    black, white = (look_at(BLACK, Image.new("L", (40, 40), value), 0.0).view for value in (0, 255))
    assert black.tolist() == [1, 1, 0, 0, 0, 0, 1, 0]
    assert white.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    halves = np.zeros((40, 40), np.uint8)
    halves[:, 20:] = 255
    # Half is dark, two of four corners are, one edge of 255 on 39 steps, the halves are each other's opposite.
    expected = [0.5, 0.5, 0.5, 1, 0, 10 / 39, -1, 0.5]
    assert look_at(BLACK, Image.fromarray(halves), 0.0).view.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_looks_are_computed_once_and_travel_to_other_processes():
    found = prepare(make_scan("glioma", 1), Preprocessing((48, 48), (0.5,) * 3, (0.25,) * 3, frame=True))
    looks = found.looks
    assert found.looks is looks
    assert "looks" in vars(pickle.loads(pickle.dumps(found)))


@pytest.mark.parametrize("percents", [(1, 99), (10, 50, 90), (1, 20, 99.5), (0, 100)])
@pytest.mark.parametrize("size", [1, 2, 3, 100, 4801])
def test_percentiles_of_counts_are_those_of_the_pixels(size, percents):
    pixels = np.random.default_rng(size).integers(0, 256, (1, size), dtype=np.uint8) // 3
    counts = counts_of(Image.fromarray(pixels))
    for values in (LEVELS, FRACTIONS):
        assert percentiles(values, counts, percents).tolist() == np.percentile(values[pixels], percents).tolist()
    half = pixels > 40
    assert counts_of(Image.fromarray(pixels), half).tolist() == np.bincount(pixels[half], minlength=256).tolist()
