"""Overlays: nothing drawn where there is no evidence, one scale for all pictures, both signs treated alike."""

import numpy as np
import pytest
from PIL import Image

from brain_xai.overlay import BAR_HEIGHT, colour_bar, overlay


@pytest.fixture
def view() -> Image.Image:
    """A view of 60 x 40 pixels with every grey in it."""
    grey = np.arange(40 * 60, dtype=np.uint32).reshape(40, 60) % 256
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _drawn(view: Image.Image, value: float, scale: float = 2.0, **options) -> np.ndarray:
    """Draw a map that has the same value everywhere; return the colours above the bar."""
    picture = overlay(view, np.full((view.height, view.width), value, np.float32), scale, **options)
    return np.asarray(picture)[:-BAR_HEIGHT].astype(int)


def _lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L*, 0 to 100, of sRGB colours [..., 3]."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    return 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16


def test_zero_map_leaves_the_scan_untouched(view):
    enlarged = np.asarray(view.resize((720, 480), Image.Resampling.BICUBIC))
    assert np.array_equal(_drawn(view, 0.0), enlarged)
    assert np.array_equal(_drawn(view, 1.0, opacity=0), enlarged)
    assert not np.array_equal(_drawn(view, 0.1), enlarged)


def test_only_the_place_of_the_evidence_is_coloured(view):
    attribution = np.zeros((40, 60), np.float32)
    attribution[10:20, 30:40] = 2
    enlarged = np.asarray(view.resize((720, 480), Image.Resampling.BICUBIC))
    drawn = np.asarray(overlay(view, attribution, 2.0))[:-BAR_HEIGHT]
    rows, columns = np.nonzero((drawn != enlarged).any(axis=-1))
    # 12 pixels for one, and half a pixel of bilinear transition on each side.
    assert (rows.min() // 12, rows.max() // 12) == (9, 20)
    assert (columns.min() // 12, columns.max() // 12) == (29, 40)


def test_the_scale_belongs_to_the_caller_not_to_the_picture(view):
    weak, strong = np.zeros((2, 40, 60), np.float32)
    weak[5, 5] = strong[5, 5] = 0.5
    strong[30:, 40:] = 2
    corner = np.s_[:240, :360]
    assert np.array_equal(np.asarray(overlay(view, weak, 2.0))[corner], np.asarray(overlay(view, strong, 2.0))[corner])
    assert np.array_equal(_drawn(view, 0.5, scale=1.0), _drawn(view, 1.0, scale=2.0))
    assert np.array_equal(_drawn(view, 2.0), _drawn(view, 50.0)), "evidence beyond the scale saturates"


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_both_signs_hide_the_scan_alike_and_look_equally_strong(strength):
    black, white = Image.new("RGB", (48, 48)), Image.new("RGB", (48, 48), "white")
    for sign in (1, -1):
        shows_through = _drawn(white, sign * 2 * strength) - _drawn(black, sign * 2 * strength)
        assert np.abs(shows_through - 255 * (1 - 0.7 * strength)).max() <= 1
    for_, against = _drawn(black, 2 * strength)[0, 0], _drawn(black, -2 * strength)[0, 0]
    assert for_[0] > for_[2] + 10 * strength, "what speaks for the label is amber"
    assert against[2] > against[0] + 10 * strength, "what speaks against is blue"
    assert abs(_lightness(for_) - _lightness(against)) < 4


def test_more_evidence_never_looks_like_less():
    growing = np.linspace(0, 2, 480, dtype=np.float32)[None].repeat(480, axis=0)
    for attribution in (growing, -growing):
        row = np.asarray(overlay(Image.new("RGB", (480, 480)), attribution, 2.0))[0, ::20]
        assert (np.diff(_lightness(row)[1:]) > 0.5).all()


@pytest.mark.parametrize(("side", "enlarged"), [(160, 480), (224, 672), (480, 480), (600, 600)])
def test_small_views_are_enlarged_by_a_whole_factor(side, enlarged):
    picture = overlay(Image.new("RGB", (side, side)), np.zeros((side, side), np.float32), 1.0)
    assert (picture.mode, picture.size) == ("RGB", (enlarged, enlarged + BAR_HEIGHT))


def test_colour_bar_shows_the_colours_of_the_overlay():
    bar = np.asarray(colour_bar(480, 2.0)).astype(int)
    tissue = Image.new("RGB", (48, 48), (64, 64, 64))
    row = bar[20, 16:-16]
    assert np.abs(row[0] - _drawn(tissue, -2.0)[0, 0]).max() <= 1
    assert np.abs(row[-1] - _drawn(tissue, 2.0)[0, 0]).max() <= 1
    assert np.abs(row[len(row) // 2] - 64).max() <= 2, "no evidence in the middle"


def test_colour_bar_names_scale_and_unit():
    def text(**changes):
        return np.asarray(colour_bar(**({"width": 480, "scale": 2.0, "unit": "logits"} | changes)))[32:]

    assert text().max() == 255
    assert not text()[:, [0, 12, -13, -1]].any(), "text keeps off the border"
    assert not np.array_equal(text(), text(scale=3.0))
    assert not np.array_equal(text(), text(unit="logits per cell"))


def test_what_does_not_fit_is_refused(view):
    fits = np.zeros((40, 60), np.float32)
    with pytest.raises(ValueError, match=r"shape \(60, 40\), the view \(40, 60\)"):
        overlay(view, fits.T, 1.0)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            overlay(view, np.full_like(fits, value), 1.0)
    for scale in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="scale"):
            overlay(view, fits, scale)
    for opacity in (-0.1, 1.1):
        with pytest.raises(ValueError, match="opacity"):
            overlay(view, fits, 1.0, opacity)


def _lines(view: Image.Image, attribution: np.ndarray, **options) -> np.ndarray:
    """Return which pixels a line changed, [H, W] above the bar."""
    plain, lined = (np.asarray(overlay(view, attribution, 2.0, **drawn))[:-BAR_HEIGHT] for drawn in ({}, options))
    return (plain != lined).any(axis=-1)


def test_the_outline_runs_around_strong_evidence_for_the_label_alone(view):
    attribution = np.zeros((40, 60), np.float32)
    attribution[10:20, 30:40] = 2  # full colour
    attribution[30:36, 5:15] = 0.8  # less than half of it
    attribution[2:6, 5:15] = -2  # against
    rows, columns = np.nonzero(_lines(view, attribution, outline=True))
    assert (rows.min() // 12, rows.max() // 12) == (9, 20)
    assert (columns.min() // 12, columns.max() // 12) == (29, 40)
    assert not _lines(view, attribution, outline=True)[13 * 12 : 17 * 12, 33 * 12 : 37 * 12].any(), "only around it"


def test_weak_evidence_gets_no_outline(view):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (40, 60)).astype(np.float32)
    assert not _lines(view, noise, outline=True).any()


def test_the_box_is_drawn_where_it_is(view):
    lines = _lines(view, np.zeros((40, 60), np.float32), box=(0.25, 0.5, 0.75, 1.0))
    rows, columns = np.nonzero(lines)
    assert rows.min() == pytest.approx(240, abs=4)
    assert (columns.min(), columns.max()) == (pytest.approx(180, abs=4), pytest.approx(540, abs=4))
    assert not lines[260:, 200:520].any()


def test_a_box_inside_out_is_refused(view):
    with pytest.raises(ValueError, match="x_min < x_max"):
        overlay(view, np.zeros((40, 60), np.float32), 1.0, box=(0.5, 0.2, 0.4, 0.6))


def test_the_bar_of_an_unsigned_map_has_no_blue():
    bars = (np.asarray(colour_bar(400, 2.0, signed=signed)).astype(int) for signed in (True, False))
    signed, unsigned = (bar[12:32, 16:-16] for bar in bars)
    assert (signed[..., 2] > signed[..., 0] + 10).any()
    assert not (unsigned[..., 2] > unsigned[..., 0] + 10).any()


def test_a_long_unit_keeps_clear_of_the_words_at_the_ends():
    lit = np.asarray(colour_bar(480, 2.0, unit="logits per cell and step from black to white"))[62:].any(axis=(0, 2))
    gaps = np.diff(np.flatnonzero(lit))
    assert (gaps > 12).sum() == 2
