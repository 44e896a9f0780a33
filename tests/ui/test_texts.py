"""How labels and measured numbers are put into words."""

import pytest

from brain_xai import METHODS
from brain_xai.classifier import CheckpointInfo, PredictionWarning
from brain_xai.ui import texts
from tests.helpers.served import METRICS

QUALITY = {"pointing_game": {"value": 0.847, "low": 0.807, "high": 0.883, "n": 300}}


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_labels_as_people_say_them():
    assert texts.label_text("notumor") == "no tumor recognized"
    assert texts.heading("notumor") == "No tumor recognized"
    assert texts.heading("pituitary") == "Pituitary tumor"
    assert texts.label_text("low_grade") == "low grade"


def test_texts_are_escaped():
    warnings = texts.warnings([PredictionWarning("code", "<b>")])
    assert "<b>" not in warnings + texts.error("<b>") + texts.caption(METHODS["grad_cam"], "<b>", None)


def test_a_caption_says_how_often_such_maps_point_at_the_tumor():
    caption = plain(texts.caption(METHODS["grad_cam"], "glioma", QUALITY))
    assert "In 84.7 % of 300 test scans with a marked tumor" in caption
    assert "(95 % interval 80.7 % to 88.3 %)" in caption
    assert "has not been measured" in texts.caption(METHODS["grad_cam"], "glioma", None)


def test_a_map_for_no_tumor_is_not_said_to_hit_one():
    for method in METHODS.values():
        assert (
            texts.short_caption(method, "glioma", QUALITY) == f"{method.title} (hit the tumor in 85 of 100 test scans)"
        )
        assert texts.short_caption(method, "notumor", QUALITY) == method.title
        assert "84.7" not in texts.caption(method, "notumor", QUALITY)
        assert texts.how_good(None) not in texts.caption(method, "notumor", None)


def test_only_signed_maps_are_said_to_speak_for_and_against():
    for method in METHODS.values():
        caption = texts.caption(method, "glioma", None)
        assert ("blue against it" in caption) is method.signed
        assert ("does not tell for from against" in caption) is not method.signed


def test_trust_is_put_in_numbers_that_people_count():
    metrics = METRICS | {"test": METRICS["test"] | {"tumor_miss_rate": {"value": 0.02, "low": 0.011, "high": 0.03}}}
    assert texts.trust("glioma", metrics) == (
        "Right on 95 of 100 test scans of its own collection. It missed 2 of 100 tumors there. "
        "It has not been measured on scans from other collections; expect it to be worse there."
    )
    about = plain(texts.about_model(CheckpointInfo("org/model", "abc", "resnet18"), metrics))
    assert "right on 95.1 % of 1,311 test scans (95 % interval 93.9 % to 96.2 %)" in about
    assert "In 2.0 % of the scans with a tumor it recognized none (95 % interval 1.1 % to 3.0 %)" in about
    assert "No copy of a test scan was used for training" in about


@pytest.mark.parametrize(("share", "text"), [(0.998, "more than 99 of 100"), (0.001, "fewer than 1 of 100")])
def test_no_sample_shows_all_or_none(share, text):
    assert text in texts.trust("glioma", {"test": {"accuracy": {"value": share}}})


def test_trust_names_the_worst_and_the_best_kind_of_scans_from_elsewhere():
    shares = {"test": (0.99, 500), "web T1 tumor": (0.762, 105), "web T2 tumor": (0.926, 81), "few": (0.2, 17)}
    kinds = {name: {"tumor_or_not": {"value": share, "n": n}} for name, (share, n) in shares.items()}
    text = texts.trust("glioma", METRICS | {"shortcuts": {"kinds": kinds}})
    assert text.endswith("On scans from other collections it told tumor from no tumor in 76 to 93 of 100.")


def test_no_tumor_recognized_does_not_rule_one_out():
    for metrics in (METRICS, {}):
        assert "does not rule out a tumor" in texts.trust("notumor", metrics)
        assert "does not rule out a tumor" not in texts.trust("glioma", metrics)


def test_a_number_from_a_leaky_split_says_so():
    leaky = METRICS | {"split": "official"}
    assert "flatter the model" in texts.trust("glioma", leaky)
    assert "flatter the model" in texts.about_model(CheckpointInfo("org/model", "abc", "resnet18"), leaky)


def test_a_model_without_numbers_is_a_demonstration():
    text = texts.about_model(CheckpointInfo("org/model", "abc", "resnet18"), {})
    assert "has not been measured" in text
    assert "abc" in text
    assert "has not been measured" in texts.trust("glioma", {})
