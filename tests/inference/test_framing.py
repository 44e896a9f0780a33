"""Every scan in the same frame: what the frame must not depend on, and that maps find their way back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.framing import FRAME_VERSION, Framed, frame
from brain_xai.preprocess import Preprocessing, prepare, to_original, to_view

PREPROCESSING = Preprocessing((64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), frame=True)


def head(width: int = 140, height: int = 180) -> np.ndarray:
    """A bright ring of scalp around dark bone and gray tissue with two ventricles and a lesion, uint8 [H, W]."""
    y, x = np.mgrid[-1 : 1 : 1j * height, -1 : 1 : 1j * width]
    radius = np.hypot(x, y)
    values = np.where(radius < 1, 200.0, 0.0)
    values[radius < 0.93] = 30
    values[radius < 0.88] = 110 + 20 * np.sin(9 * x + 5 * y)[radius < 0.88]
    for center in (-0.15, 0.15):
        values[np.hypot((x - center) * 6, (y + 0.1) * 2.5) < 1] = 25
    values[np.hypot(x - 0.45, y - 0.3) < 0.15] = 180
    return values.astype(np.uint8)


def on_black(values: np.ndarray, margins: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = margins
    return Image.fromarray(np.pad(values, ((top, bottom), (left, right))))


def likeness(first: Image.Image, second: Image.Image) -> float:
    """Correlation of two images at 32 x 32 pixels."""
    first, second = (np.asarray(image.resize((32, 32), Image.Resampling.BOX)).ravel() for image in (first, second))
    return float(np.corrcoef(first, second)[0, 1])


SCAN = on_black(head(), (40, 20, 60, 30))
# The head is looked for on a grid of 96 cells, so that two frames of it may be a cell apart: up to 3 of 200 pixels at
# each edge of these images. The scalp is 6 pixels thick, which makes a correlation of .91 of that (measured).
SAME = 0.9


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (5, 5, 5, 5), (150, 10, 10, 10), (10, 120, 130, 0)])
def test_padding_changes_nothing(margins):
    framed = frame(on_black(head(), margins))
    assert likeness(framed.image, frame(SCAN).image) > SAME
    assert framed.image.width == framed.image.height == framed.side


@pytest.mark.parametrize("margin", [300, 700, 1100])
def test_a_head_lost_in_a_wide_margin_is_found(margin):
    """Heads of 3 %, .8 % and .4 % of the image."""
    plain, lost = frame(on_black(head(), (5, 5, 5, 5))), frame(on_black(head(), (margin, margin, margin, margin)))
    assert likeness(plain.image, lost.image) > SAME
    assert (lost.left + 5, lost.top + 5) == pytest.approx((plain.left + margin, plain.top + margin), abs=6)
    assert lost.side == pytest.approx(plain.side, rel=0.05)
    assert lost.original_size == (140 + 2 * margin, 180 + 2 * margin)


@pytest.mark.parametrize(("gain", "offset"), [(0.3, 0), (0.6, 0), (1.2, 0), (0.7, 40), (0.5, 100)])
def test_brightness_and_contrast_change_nothing(gain, offset):
    values = np.asarray(SCAN) * gain + offset
    changed = frame(Image.fromarray(values.round().clip(0, 255).astype(np.uint8))).image
    assert likeness(changed, frame(SCAN).image) > SAME


def test_framing_twice_changes_nothing():
    once = frame(SCAN).image
    assert likeness(frame(once).image, once) > SAME


def test_resolution_changes_nothing():
    large = SCAN.resize((SCAN.width * 3, SCAN.height * 3), Image.Resampling.BICUBIC)
    assert likeness(frame(large).image, frame(SCAN).image) > SAME


def test_the_frame_is_the_head_with_its_margin():
    framed = frame(SCAN)
    # The head is 180 pixels high from row 20 on and 140 wide from column 40 on; its margin is 3 % of 180.
    assert framed.side == pytest.approx(180 * 1.06, abs=6)
    assert framed.top == pytest.approx(20 - 0.03 * 180, abs=4)
    assert framed.left + framed.side / 2 == pytest.approx(40 + 70, abs=4)


def test_text_and_border_lines_beside_the_head_are_not_in_the_frame():
    spoiled = SCAN.copy()
    draw = ImageDraw.Draw(spoiled)
    draw.rectangle((0, 0, spoiled.width - 1, spoiled.height - 1), outline=255)
    draw.text((3, 4), "L 12\nT2", fill=255)
    assert likeness(frame(spoiled).image, frame(SCAN).image) > SAME


def test_a_noisy_background_becomes_black():
    noise = np.abs(np.random.default_rng(0).normal(0, 12, (SCAN.height, SCAN.width)))
    noisy = Image.fromarray(np.maximum(np.asarray(SCAN), noise).astype(np.uint8))
    framed = frame(noisy)
    assert likeness(framed.image, frame(SCAN).image) > SAME
    assert np.asarray(framed.image)[:3, :3].max() == 0


def test_a_skull_stripped_brain_fills_the_frame():
    values = head()
    y, x = np.mgrid[-1 : 1 : 1j * values.shape[0], -1 : 1 : 1j * values.shape[1]]
    framed = frame(on_black(np.where(np.hypot(x, y) < 0.88, values, 0), (40, 20, 60, 30)))
    assert framed.side == pytest.approx(0.88 * 180 * 1.06, abs=6)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_is_kept_whole(value):
    framed = frame(Image.new("L", (90, 60), value))
    assert (framed.left, framed.top, framed.side) == (0, -15, 90)
    assert framed.image.size == (90, 90)


@pytest.mark.parametrize("size", [(32, 32), (33, 120), (400, 110)])
def test_noise_of_any_shape_gives_a_square(size):
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    framed = frame(Image.fromarray(values))
    assert framed.image.size == (framed.side, framed.side)


def test_a_map_goes_back_to_where_it_was_seen():
    framed = frame(SCAN)
    seen = np.asarray(framed.image.resize((160, 160))).astype(np.float32)
    back = framed.to_original(seen)
    assert back.shape == (SCAN.height, SCAN.width)
    # The lesion is the brightest compact place of the tissue: its center is the same in both.
    expected = np.asarray(SCAN).astype(float) > 170
    y, x = 20 + round(0.65 * 180), 40 + round(0.725 * 140)
    assert back[y, x] > 0.8 * seen.max()
    assert np.corrcoef(back.ravel(), expected.ravel())[0, 1] > 0.6


def test_a_map_is_zero_where_the_model_saw_nothing():
    framed = Framed(Image.new("L", (4, 4)), left=2, top=-1, side=4, original_size=(10, 5))
    back = framed.to_original(np.ones((2, 2), dtype=np.float32))
    assert back[:3, 2:6].tolist() == np.ones((3, 4)).tolist()
    assert back.sum() == 12


def test_the_view_is_the_framed_image_and_a_map_of_it_has_the_size_of_the_original():
    view = prepare(SCAN, PREPROCESSING).view
    unframed = replace(PREPROCESSING, frame=False)
    assert np.array_equal(np.asarray(view), np.asarray(to_view(frame(SCAN).image, unframed)))
    for preprocessing in (PREPROCESSING, unframed):
        assert to_original(np.ones((64, 64)), SCAN, preprocessing).shape == (SCAN.height, SCAN.width)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    save_checkpoint(tmp_path, model, label_names=("a", "b", "c"), preprocessing=PREPROCESSING, brain_xai={})
    return tmp_path


def test_a_checkpoint_records_its_frame_and_timm_gives_equal_logits_for_the_framed_image(folder):
    classifier = load_checkpoint(folder)
    assert classifier.preprocessing == PREPROCESSING
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    framed = frame(SCAN).image.convert("RGB")
    with torch.inference_mode():
        expected = model(transform(framed)[None])
    # timm resizes the same 8-bit image with the same filter: only the order of float operations may differ.
    assert torch.allclose(classifier.logits(prepare(SCAN, PREPROCESSING).pixel_values), expected, atol=1e-5)


def test_a_checkpoint_of_before_is_not_framed_and_one_of_an_unknown_frame_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["brain_xai"]["frame"] == FRAME_VERSION
    config["brain_xai"]["frame"] = FRAME_VERSION + 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="framed"):
        load_checkpoint(folder)
    del config["brain_xai"]["frame"]
    (folder / "config.json").write_text(json.dumps(config))
    assert not load_checkpoint(folder).preprocessing.frame
