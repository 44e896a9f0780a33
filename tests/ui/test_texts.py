"""How answers, labels and measured numbers are put into words."""

from dataclasses import replace

import pytest
from PIL import Image

from brain_xai import METHODS, explain, load_checkpoint
from brain_xai.classifier import CheckpointInfo, Prediction, PredictionWarning
from brain_xai.trust import MESSAGES
from brain_xai.ui import measured, texts, wording
from brain_xai.ui.language import CATALOGS
from tests.helpers.served import METRICS

INFO = CheckpointInfo("org/model", "abc", "resnet18")


def pointing(value: float, n: int = 50) -> dict:
    return {"pointing_game": {"value": value, "low": value, "high": value, "n": n}}


@pytest.fixture(scope="module")
def classifier(tiny):
    explanations = {
        "methods": {"grad_cam": pointing(0.847), "consensus": pointing(0.93)},
        "by_class": {"glioma": {"grad_cam": pointing(0.78), "uniform": pointing(0.021)}},
    }
    return replace(load_checkpoint(tiny), explanations=explanations, no_tumor_label="notumor")


def answer(label: str, probability: float) -> Prediction:
    others = [other for other in ("glioma", "meningioma", "notumor", "pituitary") if other != label]
    return Prediction({label: probability} | dict.fromkeys(others, (1 - probability) / 3), label, (), INFO)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_labels_as_people_say_them():
    assert texts.label_text("notumor") == "no tumor recognized"
    assert texts.heading("notumor") == "No tumor recognized"
    assert texts.heading("pituitary") == "Pituitary tumor"
    assert texts.label_text("low_grade") == "low grade"


def test_the_answer_is_one_sentence_without_zero_or_one_hundred(classifier):
    said = {
        ("glioma", 0.98): "Glioma recognized: the model's certainty is 98 %.",
        ("glioma", 0.999): "Glioma recognized: the model's certainty is more than 99 %.",
        ("glioma", 0.4): "Glioma is only the likeliest answer: the model's certainty is 40 %.",
        ("notumor", 0.87): "No tumor recognized: the model's certainty is 87 %.",
    }
    for (label, probability), sentence in said.items():
        assert plain(wording.sentence(classifier, answer(label, probability))) == sentence
    rows = [plain(text) for text, _ in wording.rows(answer("glioma", 0.9999))]
    assert rows[0] == "Glioma: more than 99 %"
    assert rows[1:] == [f"{name}: less than 1 %" for name in ("Meningioma", "No tumor recognized", "Pituitary tumor")]


def test_no_tumor_recognized_does_not_rule_one_out(classifier):
    assert texts.NOT_RULED_OUT in wording.answer_html(classifier, answer("notumor", 0.9))
    assert texts.NOT_RULED_OUT not in wording.answer_html(classifier, answer("glioma", 0.9))


def test_texts_are_escaped(classifier):
    warnings = wording.warnings_html([PredictionWarning("code", "<b>")])
    caption = wording.caption_html(METHODS["grad_cam"], "<b>", "<b>", "<b>")
    assert "<b>" not in warnings + texts.error("<b>") + texts.notice("<b>") + caption


def test_the_warning_that_makes_an_answer_meaningless_comes_first():
    html = wording.warnings_html([PredictionWarning("low_margin", "Close."), PredictionWarning("not_brain_mri", "No.")])
    assert html.index("No.") < html.index("Close.")
    assert wording.warnings_html([]) == ""


def test_quality_is_that_of_the_class_next_to_chance(classifier):
    said = wording.how_good(classifier, "grad_cam", "glioma")
    assert "glioma" in said
    assert "78 of 100" in said
    assert "2 of 100" in said
    for method, label in (("grad_cam", "notumor"), ("grad_cam", "meningioma"), ("occlusion", "glioma")):
        assert wording.how_good(classifier, method, label) == ""


def test_methods_are_ordered_by_quality_and_say_their_time(classifier):
    choices = wording.method_choices(classifier, dict.fromkeys(METHODS, 0.1) | {"consensus": 1.2, "occlusion": 3.4})
    assert [key for _, key in choices][:2] == ["consensus", "grad_cam"]
    by_key = {key: text for text, key in choices}
    assert by_key["consensus"] == "Consensus · 93 of 100 · 1 s"
    assert by_key["grad_cam"] == "Grad-CAM · 85 of 100"
    assert by_key["occlusion"] == "Occlusion · 3 s"


def test_only_unsigned_maps_are_said_not_to_tell_for_from_against():
    for method in METHODS.values():
        caption = wording.caption_html(method, "glioma", "", "")
        assert ("does not tell for from against" in caption) is not method.signed


def test_what_is_measured_is_put_in_numbers_that_people_count():
    metrics = METRICS | {"test": METRICS["test"] | {"tumor_miss_rate": {"value": 0.02, "low": 0.011, "high": 0.03}}}
    assert measured.in_short(metrics) == (
        "Right on 95 of 100 test scans of its own collection, missing 2 of 100 tumors. "
        "It has not been measured on scans from other collections; expect it to be worse there."
    )
    about = plain(measured.at_length(INFO, metrics))
    assert "right on 95.1 % of 1,311 test scans (95 % interval 93.9 % to 96.2 %)" in about
    assert "In 2.0 % of the scans with a tumor it recognized none (95 % interval 1.1 % to 3.0 %)" in about
    assert "No copy of a test scan was used for training" in about


@pytest.mark.parametrize(("share", "text"), [(0.998, "more than 99 of 100"), (0.001, "fewer than 1 of 100")])
def test_no_sample_shows_all_or_none(share, text):
    assert text in measured.in_short({"test": {"accuracy": {"value": share}}})


def test_the_worst_and_the_best_kind_of_scans_from_elsewhere_are_named():
    shares = {"test": (0.99, 500), "web T1 tumor": (0.762, 105), "web T2 tumor": (0.926, 81), "few": (0.2, 17)}
    kinds = {name: {"tumor_or_not": {"value": share, "n": n}} for name, (share, n) in shares.items()}
    text = measured.in_short(METRICS | {"shortcuts": {"kinds": kinds}})
    assert text.endswith("On scans from other collections it told tumor from no tumor in 76 to 93 of 100.")


def test_a_number_from_a_leaky_split_says_so():
    leaky = METRICS | {"split": "official"}
    assert "flatter the model" in measured.in_short(leaky)
    assert "flatter the model" in measured.at_length(INFO, leaky)


def test_a_model_without_numbers_is_a_demonstration():
    text = measured.at_length(INFO, {})
    assert "has not been measured" in text
    assert "abc" in text
    assert "has not been measured" in measured.in_short({})


def test_waiting_says_the_place_and_the_seconds():
    assert "You are next, about 8 s." in texts.waiting(1, 8.2)
    assert "3 maps are before yours, about 12 s." in texts.waiting(3, 12)
    assert "about 4 s left" in texts.progress(2, 10, 4)


def test_the_summary_of_a_map_is_its_alternative_text(tiny):
    explanation = explain(load_checkpoint(tiny), Image.new("L", (64, 64)), "grad_cam", "glioma")
    caption = wording.caption_html(METHODS["grad_cam"], explanation.label, "Nothing stands out.", "")
    assert texts.plain(caption).startswith("Grad-CAM, glioma.")
    assert "Nothing stands out." in texts.plain(caption)


def test_what_the_page_says_is_known_in_german():
    said = {name: value for name, value in vars(texts).items() if name.isupper() and isinstance(value, str)}
    for name in ("TITLE", "FORMATS_TEXT", "NO_TUMOR", "NOT_A_BRAIN", "NO_CHECKPOINT", "CHECKPOINT_UNAVAILABLE"):
        del said[name]  # names, or sentences for maintainers
    sentences = {*said.values(), *texts.DISCLAIMER, *texts.READING, *texts.LABEL_TEXTS.values()}
    sentences |= {method.summary for method in METHODS.values()} | set(MESSAGES.values())
    assert not sentences - set(CATALOGS["de"])


def test_models_have_names_and_say_how_good_they_are(tiny, tmp_path):
    names = {
        "bundled/resnet18": "ResNet-18",
        "bundled/efficientnetv2_b0": "EfficientNetV2-B0",
        "tf_efficientnet_b0": "EfficientNet-B0",
        "efficientnetv2_s": "EfficientNetV2-S",
        "org/brain-resnet18@v1": "org/brain-resnet18@v1",
    }
    assert {name: measured.model_name(name) for name in names} == names
    assert measured.checkpoint_choices([tiny]) == [("tiny · 95 of 100", tiny)]
    assert measured.checkpoint_choices([tiny, "org/unknown"]) == [
        ("tiny · 95 of 100 · recommended", tiny),
        ("org/unknown", "org/unknown"),
    ]
    same = ["resnet18", "bundled/resnet18"]
    assert [text.split(" · ")[0] for text, _ in measured.checkpoint_choices(same)] == same
