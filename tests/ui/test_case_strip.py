"""The strip of cases: buttons with a name, a truth that is shown with its credit, a box at the right place."""

import asyncio
import html
import re
from pathlib import Path

import gradio as gr
import pytest
from gradio.events import EventData

from brain_xai.checkpoint.catalog import bundled_checkpoints
from brain_xai.classifier import CheckpointInfo, Prediction, PredictionWarning
from brain_xai.ui import language
from brain_xai.ui.case_strip import CaseStrip, cases_strip, credit_html, strip_html, truth_html
from brain_xai.ui.cases import NOT_A_BRAIN, Case
from brain_xai.ui.language import CATALOGS


@pytest.fixture(scope="module")
def strip(tmp_path_factory) -> CaseStrip:
    async def build() -> CaseStrip:  # without a running event loop Gradio makes new ones and leaves them open
        with gr.Blocks(analytics_enabled=False):
            return cases_strip(bundled_checkpoints())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        return asyncio.run(build())


@pytest.fixture
def german():
    token = language._language.set("de")
    yield
    language._language.reset(token)


def answer(label: str, *codes: str) -> Prediction:
    warnings = tuple(PredictionWarning(code, code) for code in codes)
    return Prediction({"glioma": 0.5, "notumor": 0.5}, label, warnings, CheckpointInfo("x", "y", "z"))


def words(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def test_every_case_is_a_button_whose_name_is_what_it_shows(strip):
    buttons = re.findall(r"<button.*?</button>", strip.component.value)
    assert len(buttons) == len(strip.cases) == 13
    for number, (button, case) in enumerate(zip(buttons, strip.cases, strict=True), start=1):
        assert words(button).strip() == f"Case {number}: {case.caption}."
        assert 'alt=""' in button  # the name says it


def test_the_strip_is_light(strip):
    assert len(strip.component.value) < 45_000


def test_served_files_keep_the_truth_to_themselves_and_are_kept(strip):
    for case in strip.cases:
        assert case.label not in Path(case.file).name
        assert case.file in strip.component.keep_in_cache
        assert Path(case.file).is_file()


def test_a_click_names_its_case(strip):
    assert strip.chosen(EventData(None, {"index": 2})) == strip.cases[2]
    for bad in ({"index": -1}, {"index": 99}, {"index": "0"}, {}):
        assert strip.chosen(EventData(None, bad)) is None


def test_the_strip_says_what_the_served_model_makes_of_each_case(strip):
    first, second = strip.cases[:2]
    shown = strip_html(strip.cases, {first.file: "wrong", second.file: "refused"}, chosen=second)
    buttons = re.findall(r"<button.*?</button>", shown)
    assert words(buttons[0]).endswith("model wrong")
    assert words(buttons[1]).endswith("refused")
    assert [button.count('aria-pressed="true"') for button in buttons[:3]] == [0, 1, 0]


def test_the_truth_is_told_with_guess_answer_lesson_and_credit():
    case = Case("x.png", "T1, axial", "glioma", "T1", None, "me, CC BY 4.0", "Look <here>.")
    text = truth_html(case, answer("notumor"), guess="glioma")
    assert words(text) == "The truth: glioma. You were right. The model was wrong.Look <here>.Image: me, CC BY 4.0"
    assert "You were not." in truth_html(case, answer("glioma"), guess="notumor")
    assert "right, but unsure" in truth_html(case, answer("glioma", "low_margin"))
    assert "took it for no brain scan" in truth_html(case, answer("glioma", "not_brain_mri"))
    assert "guess" not in truth_html(case)


def test_the_truth_may_be_that_there_is_no_tumor_or_no_brain():
    assert "The truth: no tumor. The model was right." in truth_html(Case("x", "", "notumor"), answer("notumor"))
    cat = Case("x", "", NOT_A_BRAIN)
    assert "not a brain scan. The model refused it" in truth_html(cat, answer("glioma", "not_brain_mri"))
    assert "not a brain scan. The model was wrong." in truth_html(cat, answer("glioma"))
    assert words(truth_html(Case("x", "drawing", ""), answer("glioma"), guess="glioma")) == ""


def test_credits_link_to_source_and_license(strip):
    for case in strip.cases:
        text = credit_html(case)
        assert case.credit in words(text)
        assert ("https://creativecommons.org/licenses/" in text) is ("CC BY" in case.credit)
        assert ("https://doi.org/10.6084/m9.figshare.1512427" in text) is ("figshare" in case.credit)
    sharealike = next(case for case in strip.cases if "CC BY-SA 3.0" in case.credit)
    assert "licenses/by-sa/3.0/" in credit_html(sharealike)
    assert "<b>" not in credit_html(Case("x", "", "", credit="<b>"))


def test_the_texts_of_the_cases_are_in_every_catalog(strip):
    for case in strip.cases:
        for catalog in CATALOGS.values():
            assert case.caption in catalog
            assert case.lesson in catalog


def test_the_strip_speaks_the_language_of_the_visitor(strip, german):
    shown = words(strip_html(strip.cases, {strip.cases[0].file: "right"}))
    assert "Fall 1: T1 mit Kontrastmittel, sagittal. Modell richtig" in shown
    truth = words(truth_html(Case("x", "", "notumor", lesson=strip.cases[2].lesson), answer("notumor")))
    assert truth.startswith("Die Wahrheit: kein Tumor. Das Modell lag richtig.Ein gesunder Freiwilliger.")
