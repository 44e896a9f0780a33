"""The fit of trust: limits that hold what they promise, detection of kinds that were left out, and the numbers kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from brain_xai.checkpoint import load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.preprocess import Preprocessing
from brain_xai.trust import Trust
from tests.helpers.scans import LABELS, make_scan
from training.data.foreign_images import KINDS
from training.learning.trust_fit import describe, share, told, warned
from training.report.trust import cannot_say_table, gate_table
from training.trust import RecordedScans, cannot_say, measured, with_disagreement

PREPROCESSING = Preprocessing((48, 48), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_a_share_has_the_wilson_interval():
    # Wilson 1927: none of 10 gives 0 to 0.278, 5 of 10 gives 0.237 to 0.763.
    none, half = share(np.zeros(10)), share(np.arange(10) < 5)
    assert (none["value"], none["low"], none["n"]) == (0, 0, 10)
    assert none["high"] == pytest.approx(0.2775, abs=1e-3)
    assert (half["low"], half["high"]) == pytest.approx((0.2366, 0.7634), abs=1e-3)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A classifier with random weights, its scans, and what was fitted and measured."""
    folder = tmp_path_factory.mktemp("trust")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4)
    save_checkpoint(
        folder,
        model,
        label_names=LABELS,
        preprocessing=PREPROCESSING,
        brain_xai={"training": {"no_tumor_label": LABELS[2]}, "attribution_scale": {"grad_cam": 0.1}},
    )
    files, classes = [], []
    for number, label in enumerate(LABELS):
        for seed in range(60):
            make_scan(label, seed, side=64).save(file := folder / f"{label}{seed}.png")
            files.append(file)
            classes.append(number)
    classes, order = np.array(classes), np.arange(len(files))
    scans = RecordedScans(
        files,
        allowed=np.ones((len(files), 4), dtype=bool),
        kinds=classes,
        sources=np.where(order % 60 >= 50, "elsewhere", ""),
        train=order[order % 60 < 30],
        validation=order[(order % 60 >= 30) & (order % 60 < 50)],
        held_out=order[order % 60 >= 50],
    )
    classifier = load_checkpoint(folder)
    return classifier, scans, *measured(classifier, scans, maps=3, per_kind=3)


def test_what_was_fitted_is_what_a_loaded_checkpoint_does(fitted):
    classifier, scans, trust, _ = fitted
    again = Trust.from_json(json.loads(json.dumps(trust.to_json())))
    validation = describe(classifier, [scans.files[i] for i in scans.validation])
    assert warned(again, validation).sum() == 0, "1 % of 80 scans is none"
    loaded = replace(classifier, trust=again)
    for file, row in zip(scans.held_out[::5], range(2), strict=False):
        given = [warning.code for warning in loaded.predict(scans.files[file]).warnings]
        one = told(again, describe(classifier, [scans.files[file]]))
        assert given == [code for code, hits in one.items() if hits[0]], row


def test_every_measured_number_is_there(fitted):
    _, scans, trust, results = fitted
    assert set(results["false_alarms"]) >= {"not_brain_mri", "unusual_scan", "low_margin", "methods_disagree"}
    assert trust.false_alarms == results["false_alarms"]
    assert set(results["detected"]) == {kind.replace("_", " ") for kind in KINDS}
    assert set(results["detected_of_known_kind"]) == set(results["detected"])
    assert set(results["other_sources"]) == {"elsewhere"}
    silence = results.pop("cannot_say")
    assert set(silence) == {"validation", "elsewhere"}
    assert silence["elsewhere"]["coverage"]["n"] == len(scans.held_out)
    results |= silence
    assert results["false_alarms"]["not_brain_mri"]["n"] == len(scans.validation)
    for rates in results.values():
        assert all(0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1 for rate in rates.values())
    plain = ("document", "chart", "noise")
    assert np.mean([results["detected"][kind]["value"] for kind in plain]) > 0.6, "though the family was left out"


def test_silence_covers_less_and_the_rest_is_counted(fitted):
    classifier, scans, trust, _ = fitted
    described = describe(classifier, [scans.files[i] for i in scans.validation])
    right = np.arange(len(scans.validation)) % 2 == 0
    silent = told(replace(trust, low_margin=2.0), described)["low_margin"]
    assert silent.all(), "no margin reaches 2"
    open_minded = cannot_say(replace(trust, low_margin=None), described, right)
    assert open_minded["coverage"]["value"] == 1
    assert open_minded["error"] == open_minded["error_of_all"]


def test_the_threshold_of_disagreement_leaves_few_right_answers_beyond():
    random = np.random.default_rng(0)
    values = random.integers(0, 8, 200) / 10
    trust, rate = with_disagreement(flat(), values)
    assert (values >= trust.methods_disagree).mean() <= 0.05
    assert rate["n"] == 200
    assert rate["value"] <= 0.08


def flat() -> Trust:
    return Trust(np.zeros(2), np.ones(2), np.eye(2)[:, :1], np.ones(1), 1.0, np.zeros((1, 1)), 1.0, 2.0)


def test_the_tables_of_the_card():
    entry = {"value": 0.004, "low": 0.0, "high": 0.01, "n": 1311}
    photographs = {"photographs": entry | {"value": 0.98, "n": 100}}
    silence = {"clinic": {"coverage": entry | {"value": 0.9}, "error": entry, "error_of_all": entry | {"value": 0.03}}}
    trust = {"false_alarms": {"not_brain_mri": entry}, "other_sources": {"clinic": entry}, "detected": photographs}
    table = gate_table(trust | {"detected_of_known_kind": {"photographs": entry | {"value": 1.0}}})
    assert "| false alarm: `not_brain_mri` | 1,311 | 0.004 [0.000, 0.010] | – |" in table
    assert "| warned about: clinic, held out | 1,311 | 0.004 [0.000, 0.010] | – |" in table
    assert "| warned about: photographs | 100 | 0.980 [0.000, 0.010] | 1.000 [0.000, 0.010] |" in table
    expected = "| clinic | 1,311 | 0.900 [0.000, 0.010] | 0.004 [0.000, 0.010] | 0.030 [0.000, 0.010] |"
    assert expected in cannot_say_table({"cannot_say": silence})
