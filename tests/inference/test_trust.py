"""Images unlike the training scans are told, close calls too, and the answer stays what it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.explanation import explain
from brain_xai.preprocess import Preprocessing
from brain_xai.trust import MEASURES, MESSAGES, Trust, describe_view
from tests.helpers.scans import LABELS, make_scan
from training.trust import fit_trust, with_thresholds

PREPROCESSING = Preprocessing((48, 48), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def flat_trust(**changed) -> Trust:
    """Three features, of which the first is the axis: two kinds at -2 and 2, spread 1, residual 2."""
    values = {
        "mean": np.zeros(3), "scale": np.ones(3), "axes": np.array([[1.0], [0], [0]]), "spread": np.ones(1),
        "residual": 2.0, "centers": np.array([[-2.0], [2.0]]), "unusual": 1.5, "not_brain_mri": 3.0, "low_margin": 0.2,
    }  # fmt: skip
    return Trust(**values | changed)


def test_the_distance_is_that_from_the_nearest_kind():
    features = np.array([[2.0, 0, 0], [-2, 0, 0], [0, 0, 0], [2, 2, 0], [2, 0, 6], [5, 0, 6]])
    # Root of half of (distance along the axis)² + (distance off it / 2)².
    expected = np.sqrt(np.array([0, 0, 4, 1, 9, 9 + 9]) / 2)
    assert flat_trust().distance(features) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("features", "probabilities", "codes"),
    [
        ([2.0, 0, 0], [0.9, 0.1], []),
        ([2.0, 0, 0], [0.55, 0.45], ["low_margin"]),
        ([2.0, 0, 6], [0.9, 0.1], ["unusual_scan"]),
        ([9.0, 0, 6], [0.9, 0.1], ["not_brain_mri"]),
        ([9.0, 0, 6], [0.5, 0.5], ["not_brain_mri", "low_margin"]),
    ],
)
def test_the_codes_follow_the_thresholds(features, probabilities, codes):
    assert flat_trust().codes(np.array(features), probabilities) == codes
    assert set(codes) <= MESSAGES.keys()


def test_fitting_finds_the_kinds_and_keeps_the_promised_share_of_false_alarms():
    random = np.random.default_rng(0)
    kinds = np.arange(2000) % 2
    features = random.normal(size=(2000, 6)) * (1, 2, 0.1, 0.1, 0.1, 0.1) + 8 * kinds[:, None] * (1, 0, 0, 0, 0, 0)
    right = np.arange(1000) % 10 > 0
    margins = random.uniform(size=1000)
    trust = with_thresholds(fit_trust(features[:1000], kinds[:1000], axes=2), features[1000:], margins, right)
    distances = trust.distance(features[1000:])
    assert (distances >= trust.unusual).mean() == pytest.approx(0.01, abs=0.002)
    assert (distances >= trust.not_brain_mri).mean() == pytest.approx(0.004, abs=0.002)
    assert (margins[right] < trust.low_margin).mean() == pytest.approx(0.05, abs=0.005)
    # 15 and 30 standard deviations from all scans.
    far = np.array([[0.0, 30, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0]])
    assert (trust.distance(far) > trust.not_brain_mri).all()


def test_it_is_the_same_after_a_way_through_json():
    trust = fit_trust(np.random.default_rng(1).normal(size=(50, 5)), np.arange(50) % 3, axes=2)
    trust = replace(trust, unusual=1.0, not_brain_mri=2.0)
    again = Trust.from_json(json.loads(json.dumps(trust.to_json())))
    features = np.random.default_rng(2).normal(size=(20, 5))
    assert again.distance(features) == pytest.approx(trust.distance(features), rel=1e-4)  # six digits are kept


@pytest.mark.parametrize(
    "change",
    [{"axes": [1, 2, 3]}, {"spread": [0.0]}, {"centers": []}, {"unusual": "far"}, {"residual": None}, {"mean": [0.0]}],
)
def test_other_content_is_refused(change):
    with pytest.raises(ValueError, match="trust"):
        Trust.from_json(flat_trust().to_json() | change)


def test_plain_measures_of_known_images():
    black, white = (describe_view(Image.new("L", (40, 40), value)) for value in (0, 255))
    assert black.tolist() == [1, 1, 0, 0, 0, 0, 1, 0]
    assert white.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert len(black) == MEASURES
    halves = np.zeros((40, 40), np.uint8)
    halves[:, 20:] = 255
    # Half is dark, two of four corners are, one edge of 255 on 39 steps, the halves are each other's opposite.
    expected = [0.5, 0.5, 0.5, 1, 0, 10 / 39, -1, 0.5]
    assert describe_view(Image.fromarray(halves)).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4)
    save_checkpoint(folder, model, label_names=LABELS, preprocessing=PREPROCESSING, brain_xai={})
    classifier = load_checkpoint(folder)
    scans = [make_scan(label, seed, side=48).convert("RGB") for label in LABELS for seed in range(40)]
    outputs = [classifier.forward(classifier.prepare(scan).pixel_values) for scan in scans]
    features = np.stack([classifier.features(*pair) for pair in zip(outputs, scans, strict=True)])
    trust = fit_trust(features[::2], np.repeat(np.arange(4), 20), axes=8)
    trust = with_thresholds(trust, features[1::2], np.linspace(0, 1, 80), np.ones(80, dtype=bool))
    config = json.loads((folder / "config.json").read_text())
    config["brain_xai"]["trust"] = replace(trust, low_margin=0.0).to_json()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def codes(classifier, image):
    return [warning.code for warning in classifier.predict(image).warnings]


def test_a_checkpoint_warns_about_noise_and_gradients_but_not_about_scans(folder):
    classifier = load_checkpoint(folder)
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (64, 64), dtype=np.uint8))
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)))
    assert codes(classifier, noise) == codes(classifier, ramp) == ["not_brain_mri"]
    warned = sum(bool(codes(classifier, make_scan(label, seed))) for label in LABELS for seed in range(50, 60))
    assert warned <= 4  # of 40; 1 % is promised for scans of the same kind


def test_the_warning_changes_no_probability_and_comes_with_the_map_as_well(folder):
    classifier = load_checkpoint(folder)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    assert classifier.predict(noise).probabilities == replace(classifier, trust=None).predict(noise).probabilities
    explanation = explain(classifier, noise, "grad_cam")
    assert [warning.code for warning in explanation.prediction.warnings] == ["not_brain_mri"]
    assert replace(classifier, trust=None).predict(noise).warnings == ()


def test_numbers_for_another_model_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["brain_xai"]["trust"] = flat_trust().to_json()
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="features"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["path", "image", "array", "palette"])
def test_a_colored_image_is_no_scan_even_where_nothing_was_fitted(folder, tmp_path, kind):
    classifier = replace(load_checkpoint(folder), trust=None)
    photo = Image.merge("RGB", [make_scan("glioma", 1).point(lambda v, k=k: v // k) for k in (1, 2, 4)])
    photo.save(tmp_path / "photo.png")
    given = {
        "path": tmp_path / "photo.png",
        "image": photo,
        "array": np.asarray(photo),
        "palette": photo.convert("P", palette=Image.Palette.ADAPTIVE),
    }[kind]
    assert codes(classifier, given) == ["not_brain_mri"]
    assert codes(load_checkpoint(folder), given).count("not_brain_mri") == 1
    assert [w.code for w in explain(classifier, given, "grad_cam").prediction.warnings] == ["not_brain_mri"]


def test_colored_notes_on_a_gray_scan_are_no_photograph(folder):
    scan = make_scan("glioma", 1, side=96).convert("RGB")
    scan.paste((255, 220, 0), (4, 4, 24, 14))  # 2 % of the image
    assert codes(replace(load_checkpoint(folder), trust=None), scan) == []
