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
from brain_xai.gate import Gate
from brain_xai.preprocess import Preprocessing
from brain_xai.trust import MESSAGES, Seen, Trust
from tests.helpers.scans import LABELS, make_scan
from training.learning.trust_fit import Described, describe, fit_distance, stored, with_thresholds

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
    assert flat_trust().codes(Seen(np.array(features), np.zeros(1), probabilities)) == codes
    assert set(codes) <= MESSAGES.keys()


def test_evidence_against_counts_from_its_threshold_on_and_never_without_one():
    seen = Seen(np.array([2.0, 0, 0]), np.zeros(1), [0.9, 0.1], evidence_against=0.7)
    assert flat_trust(evidence_against=0.7).codes(seen) == ["evidence_against"]
    assert flat_trust(evidence_against=0.71).codes(seen) == flat_trust().codes(seen) == []
    assert flat_trust(low_margin=None).codes(replace(seen, probabilities=[0.5, 0.5])) == []


def described(features, margins=None, evidence=None) -> Described:
    """Images of these features, whose two highest probabilities differ by the margins."""
    n = len(features)
    probabilities = np.stack([0.5 + margins / 2, 0.5 - margins / 2], axis=1) if margins is not None else np.ones((n, 2))
    evidence = np.zeros(n) if evidence is None else evidence
    return Described(features, np.zeros((n, 1)), probabilities, evidence, np.zeros(n, dtype=bool))


def test_fitting_finds_the_kinds_and_keeps_the_promised_share_of_false_alarms():
    random = np.random.default_rng(0)
    kinds = np.arange(2000) % 2
    features = random.normal(size=(2000, 6)) * (1, 2, 0.1, 0.1, 0.1, 0.1) + 8 * kinds[:, None] * (1, 0, 0, 0, 0, 0)
    right, healthy = np.arange(1000) % 10 > 0, np.arange(1000) % 4 == 0
    margins, evidence = random.uniform(size=1000), random.uniform(size=1000) * healthy
    validation = described(features[1000:], margins, evidence)
    trust = with_thresholds(fit_distance(features[:1000], kinds[:1000], axes=2), validation, right, healthy)
    distances = trust.distance(features[1000:])
    assert (distances >= trust.unusual).sum() == 3
    assert (distances >= trust.not_brain_mri).sum() == 1
    assert (margins[right] < trust.low_margin).mean() == pytest.approx(0.02, abs=0.002)
    assert (evidence[right & healthy] >= trust.evidence_against).mean() == pytest.approx(0.02, abs=0.005)
    # 15 and 30 standard deviations from all scans.
    far = np.array([[0.0, 30, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0]])
    assert (trust.distance(far) > trust.not_brain_mri).all()


def small_gate(**changed) -> Gate:
    """One input with mean 1 and scale 2: the first score is its step, the second its square minus 2."""
    values = {
        "mean": np.array([1.0]), "scale": np.array([2.0]), "weights": np.array([[1.0, 0], [0, 1]]),
        "bias": np.array([0.0, -2]), "limits": np.array([2.0, 1.0]),
    }  # fmt: skip
    return Gate(**values | changed)


def test_the_scores_of_the_gate_by_hand():
    assert small_gate().scores(np.array([[1.0], [5], [-3], [99]])).tolist() == [[0, -2], [2, 2], [-2, 2], [5, 23]]


def test_the_gate_tells_what_the_distance_does_not():
    # The inputs are the place along the axis, two distances, and one measure; only the measure counts.
    wide = {"mean": np.array([0, 0, 0, 1.0]), "scale": np.array([1, 1, 1, 2.0])}
    weights = np.zeros((2, 8))
    weights[0, 3] = weights[1, 7] = 1
    trust = flat_trust(gate=small_gate(**wide, weights=weights))
    for measure, codes in ((1.0, []), (-3.0, ["unusual_scan"]), (5.0, ["not_brain_mri"])):
        assert trust.codes(Seen(np.array([2.0, 0, 0]), np.array([measure]), [0.9, 0.1])) == codes


def test_it_is_the_same_after_a_way_through_json():
    random = np.random.default_rng(1)
    trust = fit_distance(random.normal(size=(50, 5)), np.arange(50) % 3, axes=2)
    inputs = trust.inputs(random.normal(size=(20, 5)), random.normal(size=(20, 3)))
    gate = Gate(inputs.mean(axis=0), inputs.std(axis=0), random.normal(size=(2, 14)), np.ones(2), np.ones(2))
    rates = {"low_margin": {"value": 0.02, "low": 0.01, "high": 0.04, "n": 400}}
    kept = {"unusual": 1.0, "not_brain_mri": 2.0, "methods_disagree": 0.7, "false_alarms": rates}
    trust = stored(replace(trust, gate=gate, **kept))
    again = Trust.from_json(json.loads(json.dumps(trust.to_json())))
    features = random.normal(size=(20, 5))
    assert again.distance(features).tolist() == trust.distance(features).tolist(), "what is stored is what was fitted"
    assert again.gate.scores(inputs).tolist() == trust.gate.scores(inputs).tolist()
    assert (again.methods_disagree, again.low_margin, again.evidence_against) == (0.7, None, None)
    assert again.false_alarms == rates


def test_the_plain_numbers_of_earlier_checkpoints_are_read():
    trust = flat_trust()
    plain = {name: np.asarray(value).tolist() for name, value in vars(trust).items() if name in trust.to_json()}
    again = Trust.from_json(plain)
    assert (again.gate, again.evidence_against, again.false_alarms) == (None, None, {})
    features = np.random.default_rng(0).normal(size=(9, 3))
    assert again.distance(features) == pytest.approx(trust.distance(features))


@pytest.mark.parametrize(
    "change",
    [
        {"axes": [1, 2, 3]},
        {"spread": [0.0]},
        {"centers": []},
        {"unusual": "far"},
        {"residual": None},
        {"mean": [0.0]},
        {"mean": {"shape": [3], "float16": "AAAA"}},
        {"mean": {"shape": [3], "float16": "?"}},
        {"evidence_against": float("nan")},
        {"false_alarms": {"low_margin": 0.02}},
        {"gate": {}},
        {"gate": small_gate().to_json() | {"scale": [0.0]}},
        {"gate": small_gate().to_json() | {"weights": [[1.0, 0]]}},
    ],
)
def test_other_content_is_refused(change):
    with pytest.raises(ValueError, match="trust"):
        Trust.from_json(flat_trust().to_json() | change)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4)
    save_checkpoint(folder, model, label_names=LABELS, preprocessing=PREPROCESSING, brain_xai={})
    classifier = load_checkpoint(folder)
    scans = describe(classifier, (make_scan(label, seed, side=48) for label in LABELS for seed in range(40)))
    even, odd = scans.take(slice(0, None, 2)), scans.take(slice(1, None, 2))
    trust = stored(fit_distance(even.features, np.repeat(np.arange(4), 20), axes=8))
    trust = with_thresholds(trust, odd, np.ones(80, dtype=bool), np.zeros(80, dtype=bool))
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


@pytest.mark.parametrize("what", ["features", "gate"])
def test_numbers_for_another_model_are_refused(folder, tmp_path, what):
    config = json.loads((folder / "config.json").read_text())
    if what == "gate":
        config["brain_xai"]["trust"]["gate"] = small_gate().to_json()
    else:
        config["brain_xai"]["trust"] = flat_trust().to_json()
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=what):
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
