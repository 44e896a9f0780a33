"""Overlays: nothing drawn without evidence, one scale for all images, both signs treated alike, a legible color bar."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from brain_xai.color_bar import color_bar
from brain_xai.methods import METHODS
from brain_xai.overlay import AttributionMap, draw_box, draw_overlay, has_outline

# A text starts 32 rows below the top of the bar with numbers: they come first, the words from row 60 on.
TEXT_TOP, WORDS_TOP = 32, 60


@pytest.fixture
def view() -> Image.Image:
    """A view of 60 x 40 pixels with every gray level in it."""
    gray = np.arange(40 * 60, dtype=np.uint32).reshape(40, 60) % 256
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def _overlay(view: Image.Image, attribution: np.ndarray, scale: float = 2.0, **options) -> Image.Image:
    """The overlay without its bar."""
    return draw_overlay(AttributionMap(view, attribution, scale, "logits", signed=True), bar="none", **options)


def _colors(view: Image.Image, value: float, scale: float = 2.0, **options) -> np.ndarray:
    """Draw a map that has the same value everywhere; return the colors."""
    drawn = _overlay(view, np.full((view.height, view.width), value, np.float32), scale, **options)
    return np.asarray(drawn).astype(int)


def _lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L*, 0 to 100, of sRGB colors [..., 3]."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    return 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16


def test_a_map_of_zeros_leaves_the_scan_unchanged(view):
    enlarged = np.asarray(view.resize((720, 480), Image.Resampling.BICUBIC))
    assert np.array_equal(_colors(view, 0.0), enlarged)
    assert np.array_equal(_colors(view, 1.0, opacity=0), enlarged)
    assert not np.array_equal(_colors(view, 0.1), enlarged)


def test_only_the_location_of_the_evidence_is_colored(view):
    attribution = np.zeros((40, 60), np.float32)
    attribution[10:20, 30:40] = 2
    enlarged = np.asarray(view.resize((720, 480), Image.Resampling.BICUBIC))
    drawn = np.asarray(_overlay(view, attribution))
    rows, columns = np.nonzero((drawn != enlarged).any(axis=-1))
    # The factor is 12, and the bilinear transition adds half a pixel on each side.
    assert (rows.min() // 12, rows.max() // 12) == (9, 20)
    assert (columns.min() // 12, columns.max() // 12) == (29, 40)


def test_the_scale_does_not_depend_on_the_image(view):
    weak, strong = np.zeros((2, 40, 60), np.float32)
    weak[5, 5] = strong[5, 5] = 0.5
    strong[30:, 40:] = 2
    corner = np.s_[:240, :360]
    assert np.array_equal(np.asarray(_overlay(view, weak))[corner], np.asarray(_overlay(view, strong))[corner])
    assert np.array_equal(_colors(view, 0.5, scale=1.0), _colors(view, 1.0, scale=2.0))
    assert np.array_equal(_colors(view, 2.0), _colors(view, 50.0)), "evidence beyond the scale saturates"


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_both_signs_hide_the_scan_alike_and_look_equally_strong(strength):
    black, white = Image.new("RGB", (48, 48)), Image.new("RGB", (48, 48), "white")
    for sign in (1, -1):
        shows_through = _colors(white, sign * 2 * strength) - _colors(black, sign * 2 * strength)
        assert np.abs(shows_through - 255 * (1 - 0.7 * strength)).max() <= 1
    positive, negative = _colors(black, 2 * strength)[0, 0], _colors(black, -2 * strength)[0, 0]
    assert positive[0] > positive[2] + 10 * strength, "positive evidence is orange"
    assert negative[2] > negative[0] + 10 * strength, "negative evidence is blue"
    assert abs(_lightness(positive) - _lightness(negative)) < 4


def test_more_evidence_never_looks_like_less():
    growing = np.linspace(0, 2, 480, dtype=np.float32)[None].repeat(480, axis=0)
    for attribution in (growing, -growing):
        row = np.asarray(_overlay(Image.new("RGB", (480, 480)), attribution))[0, ::20]
        assert (np.diff(_lightness(row)[1:]) > 0.5).all()


@pytest.mark.parametrize(("side", "enlarged"), [(160, 480), (224, 672), (480, 480), (600, 600)])
def test_small_views_are_enlarged_by_a_whole_factor(side, enlarged):
    drawn = _overlay(Image.new("RGB", (side, side)), np.zeros((side, side), np.float32))
    assert (drawn.mode, drawn.size) == ("RGB", (enlarged, enlarged))


@pytest.mark.parametrize(("bar", "height"), [("words", 64), ("numbers", 88)])
def test_the_bar_below_an_overlay_is_that_of_its_scale_opacity_unit_and_sign(view, bar, height):
    for scale, opacity, unit, signed in ((2.0, 0.7, "logits", True), (0.3, 0.4, "activation", False)):
        attribution = AttributionMap(view, np.zeros((40, 60), np.float32), scale, unit, signed)
        drawn = draw_overlay(attribution, opacity, bar=bar)
        assert drawn.size == (720, 480 + height)
        assert np.array_equal(drawn.crop((0, 480, *drawn.size)), color_bar(720, scale, opacity, unit, signed, bar))
        assert np.array_equal(drawn.crop((0, 0, 720, 480)), draw_overlay(attribution, opacity, bar="none"))


def test_the_bar_shows_the_colors_of_the_overlay():
    bar = np.asarray(color_bar(480, 2.0)).astype(int)
    tissue = Image.new("RGB", (48, 48), (64, 64, 64))
    row = bar[20, 16:-16]
    assert np.abs(row[0] - _colors(tissue, -2.0)[0, 0]).max() <= 1
    assert np.abs(row[-1] - _colors(tissue, 2.0)[0, 0]).max() <= 1
    assert np.abs(row[len(row) // 2] - 64).max() <= 2, "no evidence in the middle"


def _text(**changes) -> np.ndarray:
    """The text of a bar with numbers: uint8 [rows, width], 255 where it is white."""
    return np.asarray(color_bar(**({"width": 480, "scale": 2.0, "legend": "numbers"} | changes)))[TEXT_TOP:, :, 0]


def test_without_numbers_the_bar_has_the_same_words_and_no_unit():
    plain = np.asarray(color_bar(480, 2.0, legend="words"))[TEXT_TOP:, :, 0]
    assert np.array_equal(plain, _text(unit="")[24:])
    assert np.array_equal(plain, np.asarray(color_bar(480, 5.0, unit="activation"))[TEXT_TOP:, :, 0])


def test_the_bar_names_scale_and_unit():
    assert _text().max() == 255
    assert not _text()[:, [0, 12, -13, -1]].any(), "the text stays off the border"
    assert not np.array_equal(_text(), _text(scale=3.0))
    assert not np.array_equal(_text(), _text(unit="logits per cell"))


def _word(text: str) -> np.ndarray:
    """A word as Pillow's font draws it on its own, cut to its ink."""
    image = Image.new("L", (200, 40))
    ImageDraw.Draw(image).text((5, 30), text, fill=255, font=ImageFont.load_default(size=20), anchor="ls")
    return np.asarray(image.crop(image.getbbox()))


def _ink(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).crop(Image.fromarray(image).getbbox()))


@pytest.mark.parametrize(("signed", "ends"), [(True, ("strongly against", "strongly for")), (False, ("none", "much"))])
def test_the_words_at_the_ends_say_support_or_amount(signed, ends):
    words = _text(signed=signed, unit="")[WORDS_TOP - TEXT_TOP :]
    for half, word in zip((words[:, :240], words[:, 240:]), ends, strict=True):
        assert _ink(half).shape == pytest.approx(_word(word).shape, abs=1)


def test_the_words_stand_on_one_line():
    words = _text(signed=False, unit="")[WORDS_TOP - TEXT_TOP :]
    none, much = (np.flatnonzero(half.any(axis=1)).max() for half in (words[:, :240], words[:, 240:]))
    assert none == much


def test_a_negative_scale_has_a_minus_as_wide_as_the_plus():
    """A hyphen is about half as wide."""
    numbers = _text(unit="")[: WORDS_TOP - TEXT_TOP]
    widths = []
    for half in (numbers[:, :220], numbers[:, 260:]):
        strokes = np.diff(np.flatnonzero(np.diff(half.any(axis=0), prepend=False, append=False)).reshape(-1, 2))
        widths.append(int(strokes[0, 0]))
    assert widths[0] == pytest.approx(widths[1], abs=2)


def test_no_unit_of_a_method_contains_a_character_without_a_glyph():
    font = ImageFont.load_default(size=20)
    missing = bytes(font.getmask("\uffff"))
    for method in METHODS.values():
        for character in set(method.unit) - set("²−× "):  # composed by the overlay, as the next test checks
            assert bytes(font.getmask(character)) != missing, (method.key, character)


def test_a_square_is_drawn_as_a_raised_two():
    def words(unit):
        return _text(unit=unit)[: WORDS_TOP - TEXT_TOP, 150:330] > 100

    plain, squared = words("logits"), words("logits²")
    last = np.flatnonzero(squared.any(axis=0))[-5:]  # columns of the "2"
    letters = np.flatnonzero(plain.any(axis=1))
    rows = np.flatnonzero(squared[:, last].any(axis=1))
    assert rows.max() < letters.max() - 4, "it ends well above the baseline"
    assert rows.min() >= letters.min() - 4
    assert squared.sum() < plain.sum() + 40, "a box for a missing glyph would have much more ink"


def test_a_long_unit_keeps_clear_of_the_numbers_at_the_ends():
    lit = _text(unit="logits per cell and step from black to white")[: WORDS_TOP - TEXT_TOP].any(axis=0)
    gaps = np.diff(np.flatnonzero(lit))
    assert (gaps > 12).sum() == 2


def test_the_bar_of_an_unsigned_map_has_no_blue():
    bars = (np.asarray(color_bar(400, 2.0, signed=signed)).astype(int) for signed in (True, False))
    signed, unsigned = (bar[12:32, 16:-16] for bar in bars)
    assert (signed[..., 2] > signed[..., 0] + 10).any()
    assert not (unsigned[..., 2] > unsigned[..., 0] + 10).any()


def test_arguments_out_of_range_are_refused(view):
    fits = np.zeros((40, 60), np.float32)
    with pytest.raises(ValueError, match=r"shape \(60, 40\), the view \(40, 60\)"):
        _overlay(view, fits.T)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            _overlay(view, np.full_like(fits, value))
    for scale in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="scale"):
            _overlay(view, fits, scale)
    for opacity in (-0.1, 1.1):
        with pytest.raises(ValueError, match="opacity"):
            _overlay(view, fits, opacity=opacity)


def _lines(view: Image.Image, attribution: np.ndarray, **options) -> np.ndarray:
    """Return which pixels a line changed, [H, W]."""
    plain, lined = (np.asarray(_overlay(view, attribution, **drawn)) for drawn in ({}, options))
    return (plain != lined).any(axis=-1)


def test_the_outline_surrounds_only_strong_positive_evidence(view):
    attribution = np.zeros((40, 60), np.float32)
    attribution[10:20, 30:40] = 2  # full color
    attribution[30:36, 5:15] = 0.8  # less than half of it
    attribution[2:6, 5:15] = -2  # negative
    rows, columns = np.nonzero(_lines(view, attribution, outline=True))
    assert (rows.min() // 12, rows.max() // 12) == (9, 20)
    assert (columns.min() // 12, columns.max() // 12) == (29, 40)
    assert not _lines(view, attribution, outline=True)[13 * 12 : 17 * 12, 33 * 12 : 37 * 12].any(), "only around it"


def test_the_border_of_the_image_is_no_edge(view):
    attribution = np.zeros((40, 60), np.float32)
    attribution[:, :30] = 2
    lines = _lines(view, attribution, outline=True)
    assert not lines[:, :330].any()
    assert lines[:, 340:380].any(axis=1).all()


def test_weak_evidence_gets_no_outline(view):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (40, 60)).astype(np.float32)
    assert not _lines(view, noise, outline=True).any()


def test_the_box_is_drawn_in_its_place(view):
    lines = _lines(view, np.zeros((40, 60), np.float32), box=(0.25, 0.5, 0.75, 0.75))
    rows, columns = np.nonzero(lines)
    assert (rows.min(), rows.max()) == (pytest.approx(240, abs=4), pytest.approx(360, abs=4))
    assert (columns.min(), columns.max()) == (pytest.approx(180, abs=4), pytest.approx(540, abs=4))
    assert not lines[260:340, 200:520].any()


def test_a_box_on_a_plain_scan_is_the_same_as_on_a_map_of_nothing(view):
    box = (0.25, 0.5, 0.75, 0.75)
    assert np.array_equal(draw_box(view, box), _overlay(view, np.zeros((40, 60), np.float32), box=box))
    assert draw_box(view.convert("L"), box).mode == "RGB"


def test_a_box_inside_out_is_refused(view):
    with pytest.raises(ValueError, match="x_min < x_max"):
        _overlay(view, np.zeros((40, 60), np.float32), box=(0.5, 0.2, 0.4, 0.6))
    with pytest.raises(ValueError, match="x_min < x_max"):
        draw_box(view, (0.1, 0.6, 0.4, 0.6))


@pytest.mark.parametrize(("value", "outlined"), [(0.0, False), (0.9, False), (1.1, True), (-2.0, False)])
def test_what_has_no_outline_says_so(view, value, outlined):
    attribution = np.zeros((40, 60), np.float32)
    attribution[10:30, 20:40] = value
    assert has_outline(AttributionMap(view, attribution, 2.0, "logits", signed=True)) == outlined
    assert _lines(view, attribution, outline=True).any() == outlined
