"""Maps on the original: what the model saw at a place is drawn there, whatever was cropped, padded or turned."""

import numpy as np
import pytest
from PIL import Image

from brain_xai.overlay import AttributionMap, draw_overlay, enlarged, resample
from brain_xai.preprocess import WHOLE, Preprocessing, prepare, read_image, to_original

FRAMED = Preprocessing((160, 160), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), frame=True)
WHOLE_IMAGE = Preprocessing((160, 160), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HEADS = {  # width and height of the image; left, top, right, bottom of the head; row and column of the spot in it
    "small head in a large image": ((400, 300), (40, 60, 180, 240), (100, 90)),
    "cut off on the left and above": ((220, 260), (-60, -40, 150, 200), (70, 40)),
    "fills a tall image": ((200, 320), (0, 0, 200, 320), (250, 120)),
    "fills a wide image": ((420, 200), (0, 0, 420, 200), (60, 330)),
    "larger than the model sees": ((900, 800), (100, 100, 800, 700), (300, 500)),
}


def make_head(size: tuple[int, int], box: tuple[int, int, int, int], spot: tuple[int, int]) -> np.ndarray:
    """A gray ellipse on black with a white square of one percent of its area, uint8 [H, W]."""
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    left, top, right, bottom = box
    inside = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 <= 1
    pixels = np.where(inside, 90, 0).astype(np.uint8)
    (row, column), half = spot, round(inside.sum() ** 0.5 / 20)
    pixels[row - half : row + half + 1, column - half : column + half + 1] = 255
    return pixels


def brightness_map(prepared) -> AttributionMap:
    """A map of what is bright in the view, as a method that finds the spot without fail would draw it."""
    gray = np.asarray(prepared.view)[..., 0].astype(np.float32)
    attribution = np.where(gray > 200, gray, 0)
    return AttributionMap(prepared.view, attribution, 255.0, "gray", False, prepared.original, prepared.part)


def middle(weights: np.ndarray) -> tuple[float, float]:
    """The center of mass, row and column in pixels; the first pixel's center is at 0.5."""
    rows, columns = (np.arange(side) + 0.5 for side in weights.shape)
    return weights.sum(axis=1) @ rows / weights.sum(), weights.sum(axis=0) @ columns / weights.sum()


def orange(drawn: Image.Image) -> np.ndarray:
    """How much more red than blue each pixel is."""
    colors = np.asarray(drawn).astype(float)
    return (colors[..., 0] - colors[..., 2]).clip(min=0)


@pytest.mark.parametrize("preprocessing", [FRAMED, WHOLE_IMAGE], ids=["framed", "whole"])
@pytest.mark.parametrize("head", HEADS)
def test_a_spot_is_drawn_where_it_is(head, preprocessing):
    size, _, spot = HEADS[head]
    prepared = prepare(make_head(*HEADS[head]), preprocessing)
    assert prepared.original.size == size
    drawn = draw_overlay(brightness_map(prepared), bar="none")
    factor = drawn.width / size[0]
    assert drawn.size == enlarged(prepared.original).size == (size[0] * factor, size[1] * factor)
    row, column = middle(orange(drawn))
    # Within one pixel of the original, or of the view where that is the coarser one.
    coarsest = max(1.0, (prepared.part[2] - prepared.part[0]) * size[0] / 160)
    assert (row / factor, column / factor) == pytest.approx((spot[0] + 0.5, spot[1] + 0.5), abs=coarsest)


def test_both_ways_back_to_the_original_agree():
    """`to_original` resamples for numbers, the overlay for the eye."""
    head = HEADS["cut off on the left and above"]
    pixels, values = make_head(*head), np.random.default_rng(0).random((160, 160)).astype(np.float32)
    gray, prepared = read_image(pixels), prepare(pixels, FRAMED)
    numbers, drawn = to_original(values, gray, FRAMED), resample(values, prepared.part, gray.size)
    assert prepared.part[0] < 0, "the frame was padded"
    assert drawn == pytest.approx(numbers, abs=0.02)


def test_resampling_by_hand():
    """Two values side by side cover the middle half of an image of 8 pixels: each four quarters of a value."""
    values = np.array([[0.0, 8.0]], np.float32)
    drawn = resample(values, (0.25, 0, 0.75, 1), (8, 1))
    # Centers of the values lie at 3 and 5; between them the line rises by 4 per pixel, beyond them it is flat.
    assert drawn == pytest.approx(np.array([[0, 0, 0, 2, 6, 8, 0, 0]], np.float32))


def test_tiles_get_soft_edges_and_keep_the_value_of_their_middle():
    """Four values per tile: the edge is spread over two values on each side of it."""
    values = np.repeat([0.0, 8.0, 0.0], 4)[None].astype(np.float32)
    drawn = resample(values, WHOLE, (12, 1), tile=4)
    # At distance d from the edge, in values: weights 1/4, 1/2, 1/4 of the neighbors.
    assert drawn == pytest.approx(np.array([[0, 0, 0, 2, 6, 8, 8, 6, 2, 0, 0, 0]], np.float32))


def test_a_map_smaller_than_its_place_in_the_image_keeps_its_mean():
    """Many values per pixel are averaged, none is skipped."""
    values = np.zeros((1, 400), np.float32)
    values[0, 200:202] = 100
    assert resample(values, WHOLE, (40, 1)).sum() == pytest.approx(20, rel=0.01)


def test_an_image_turned_by_its_camera_is_drawn_upright(tmp_path):
    upright = make_head(*HEADS["small head in a large image"])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown correctly after a quarter turn clockwise
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, straight = (prepare(image, FRAMED) for image in (tmp_path / "turned.png", upright))
    assert (turned.original.size, turned.part) == (straight.original.size, straight.part)
    assert np.array_equal(draw_overlay(brightness_map(turned)), draw_overlay(brightness_map(straight)))


def test_sixteen_bits_are_drawn_as_eight():
    pixels = make_head(*HEADS["small head in a large image"])
    deep, plain = (prepare(image, FRAMED) for image in (pixels.astype(np.uint16) * 257, pixels))
    assert np.array_equal(deep.original, plain.original)
    assert np.array_equal(draw_overlay(brightness_map(deep)), draw_overlay(brightness_map(plain)))


def test_what_the_model_saw_is_drawn_as_it_saw_it():
    prepared = prepare(make_head(*HEADS["fills a tall image"]), WHOLE_IMAGE)
    seen = draw_overlay(brightness_map(prepared), on="model", bar="none")
    assert seen.size == (480, 480), "three times 160 x 160, whatever the image's aspect"
    row, column = middle(orange(seen))
    assert (row, column) == pytest.approx((250.5 / 320 * 480, 120.5 / 200 * 480), abs=3)


def test_a_box_marks_the_same_place_on_both():
    size, _, (row, column) = HEADS["small head in a large image"]
    prepared = prepare(make_head(*HEADS["small head in a large image"]), FRAMED)
    box = ((column - 20) / size[0], (row - 20) / size[1], (column + 21) / size[0], (row + 21) / size[1])
    for on, pixels in (("original", 2), ("model", 480 / 190)):
        plain, boxed = (draw_overlay(brightness_map(prepared), 0, on=on, bar="none", box=b) for b in (None, box))
        lines = (np.asarray(plain) != np.asarray(boxed)).any(axis=2)
        spot = np.asarray(plain)[..., 0] > 200
        assert middle(lines.astype(float)) == pytest.approx(middle(spot.astype(float)), abs=pixels)


def test_nothing_is_drawn_beside_what_the_model_saw():
    prepared = prepare(make_head(*HEADS["small head in a large image"]), FRAMED)
    ones = np.ones((160, 160), np.float32)
    everywhere = AttributionMap(prepared.view, ones, 1.0, "gray", True, prepared.original, prepared.part)
    rows, columns = np.nonzero(orange(draw_overlay(everywhere, bar="none")))
    left, top, right, bottom = prepared.part
    assert (columns.min(), columns.max() + 1) == pytest.approx((left * 800, right * 800), abs=1)
    assert (rows.min(), rows.max() + 1) == pytest.approx((top * 600, bottom * 600), abs=1)


def test_a_huge_image_is_shown_reduced():
    pixels = np.kron(make_head(*HEADS["larger than the model sees"]), np.ones((4, 4), np.uint8))
    prepared = prepare(pixels, FRAMED)
    assert prepared.original.size == (2048, 1820)
    row, column = middle(orange(draw_overlay(brightness_map(prepared), bar="none")))
    assert (row / 1820 * 800, column / 2048 * 900) == pytest.approx((300.5, 500.5), abs=4)


def test_another_surface_is_refused():
    prepared = prepare(make_head(*HEADS["fills a wide image"]), FRAMED)
    with pytest.raises(ValueError, match="not on 'view'"):
        draw_overlay(brightness_map(prepared), on="view")
