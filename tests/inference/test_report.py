"""The report: one page that holds all that is needed to read a map, and nothing of the file that it came from."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import brain_xai
from brain_xai import __version__, explain, report_html, summarize, summary
from brain_xai.classifier import Classifier, PredictionWarning
from brain_xai.overlay import NO_OUTLINE, enlarged
from tests.helpers.nets import make_scan, make_timm

NBSP = "\N{NO-BREAK SPACE}"
METRICS = {
    "test": {"accuracy": {"value": 0.917}, "tumor_miss_rate": {"value": 0.002}, "n": 1311},
    "shortcuts": {
        "kinds": {
            "test": {"tumor_or_not": {"value": 0.99, "n": 1311}},
            "clinic a": {"tumor_or_not": {"value": 0.762, "n": 105}},
            "clinic b": {"tumor_or_not": {"value": 0.926, "n": 81}},
            "too few": {"tumor_or_not": {"value": 0.1, "n": 12}},
        }
    },
}
EXPLANATIONS = {
    "by_class": {"cat": {"grad_cam": {"pointing_game": {"value": 0.82, "n": 50}}}},
    "baselines": {"uniform": {"pointing_game": {"value": 0.024, "n": 300}}},
}


class Elements(HTMLParser):
    """Collects every tag with its attributes, and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def images(self) -> list[bytes]:
        return [base64.b64decode(a["src"].partition(",")[2]) for tag, a in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    plain = make_timm("test_resnet", (96, 96))
    return replace(plain, metrics=METRICS, explanations=EXPLANATIONS, no_tumor_label="owl")


@pytest.fixture(scope="module")
def explanation(classifier):
    return explain(classifier, make_scan((120, 90)), target="cat")


def test_it_says_everything_that_is_needed_to_read_the_map(classifier, explanation):
    text = Elements(report_html(classifier, explanation, made=date(2026, 3, 1))).text
    probabilities = explanation.prediction.probabilities
    likeliest = max(probabilities, key=probabilities.get)
    answer = "no tumor recognized" if likeliest == "owl" else likeliest
    for part in (
        "2026-03-01",
        "This is not a diagnosis.",
        f"The model's answer: {answer}",
        "Grad-CAM for: cat",
        "strongly against strongly for",
        summarize(explanation, classifier=classifier).sentence.replace(NBSP, " "),
        "right on 92 of 100 test scans of its own collection (n = 1,311). It missed < 1 of 100 tumors there.",
        "On scans from other collections it told tumor from no tumor in 76 to 93 of 100.",
        "inside the marked tumor in 82 of 100 test scans (n = 50; a blind guess: 2 of 100).",
        f"Grad-CAM (engine: {explanation.settings['engine']}, target_layer: ",
        f"{explanation.scale:.2g} logits per position",
        "Model test (",
        "Revision 0",
        f"Brain XAI {__version__}",
        "not where a tumor is",
        "Left and right are those of the image.",
    ):
        assert part in text, part


def test_the_bars_are_the_probabilities(classifier, explanation):
    html = report_html(classifier, explanation)
    widths = [float(width) for width in re.findall(r'style="width:([\d.]+)%"', html)]
    expected = sorted((100 * p for p in explanation.prediction.probabilities.values()), reverse=True)
    assert widths == pytest.approx(expected, abs=0.05)


def test_it_holds_the_scan_and_the_map(classifier, explanation):
    scan, drawn, _ = (Image.open(io.BytesIO(data)) for data in Elements(report_html(classifier, explanation)).images)
    for image, expected in (
        (scan, enlarged(explanation.original)),
        (drawn, explanation.image(outline=True, bar="none")),
    ):
        assert image.size == expected.size
        # JPEG changes gray values a little, the fine noise of this scan most.
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).mean()
        assert difference < 4


def test_it_stands_alone(classifier, explanation):
    html = report_html(classifier, explanation)
    page = Elements(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form", "a"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("src", "data:").startswith("data:")
    assert "url(" not in html
    assert "@import" not in html
    assert "http" not in html


def test_nothing_of_the_file_but_its_pixels_is_in_it(classifier, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "EXIF JANE DOE"
    path = tmp_path / "JANE_DOE_1961.jpg"
    make_scan((120, 90)).save(path, exif=exif, comment=b"COMMENT JANE DOE")
    assert b"COMMENT JANE" in path.read_bytes()
    html = report_html(classifier, explain(classifier, path))
    for content in (html.encode(), *Elements(html).images):
        assert b"JANE" not in content
        assert str(tmp_path).encode() not in content


def test_a_folder_is_named_without_its_place(classifier, explanation, tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    stored = replace(classifier, info=replace(classifier.info, id=str(folder)))
    html = report_html(stored, explanation)
    assert "my-model" in html
    assert str(tmp_path) not in html


def test_everything_in_it_is_escaped(classifier, explanation):
    evil = "<b>{evil}</b>"
    prediction = replace(explanation.prediction, warnings=(PredictionWarning("code", evil),))
    named = replace(classifier, info=replace(classifier.info, id=evil, revision=evil, architecture=evil))
    changed = replace(explanation, prediction=prediction, settings={"engine": evil})
    html = report_html(named, changed, label_text=lambda label: evil)
    assert evil not in html
    assert Elements(html).text.count(evil) >= 6


def test_warnings_come_before_the_answer(classifier, explanation):
    warning = PredictionWarning("not_brain_mri", "This does not look like a brain MRI.")
    warned = replace(explanation, prediction=replace(explanation.prediction, warnings=(warning,)))
    text = Elements(report_html(classifier, warned)).text
    assert text.index("does not look like a brain MRI") < text.index("The model's answer")


def test_no_tumor_is_never_said_alone_and_its_map_points_at_nothing(classifier):
    explanation = explain(classifier, make_scan((120, 90)), target="owl")
    sure = {"cat": 0.05, "dog": 0.05, "owl": 0.9}
    healthy = replace(explanation, prediction=replace(explanation.prediction, label="owl", probabilities=sure))
    text = Elements(report_html(classifier, healthy)).text
    assert "The model's answer: no tumor recognized" in text
    assert "This does not rule out a tumor." in text
    assert "the strongest point of such a map" not in text


def test_what_was_not_measured_is_said_to_be_unknown(classifier, explanation):
    text = Elements(report_html(replace(classifier, metrics={}, explanations={}), explanation)).text
    assert "How often this model is right has not been measured." in text
    assert "It has not been measured on scans from other collections" in text
    assert "How often such a map points at the tumor has not been measured" in text


def test_it_speaks_other_languages(classifier, explanation):
    text = Elements(report_html(classifier, explanation, translate=lambda sentence: f"»{sentence}")).text
    for part in ("»The scan", "»How good is it?", "»A map shows what", "»strongly for", "»It was right on 92 of 100"):
        assert part in text, part


def test_every_sentence_has_a_german_one(classifier, explanation):
    catalog = json.loads((Path(brain_xai.__file__).parent / "ui" / "de.json").read_text(encoding="utf-8"))
    said = set()
    strong = replace(explanation, attribution=np.where(explanation.view.convert("L"), 1.0, 0).astype(np.float32))
    for each in (strong, replace(explanation, signed=False), replace(explanation, target=2, label="owl")):
        for knowing in (classifier, replace(classifier, metrics={}, explanations={})):
            report_html(knowing, each, translate=lambda sentence: said.add(sentence) or sentence)
    wordings = (summary.RESTS_ON, summary.HIGHLIGHTS, summary.AGAINST, *summary.PLACES)
    said |= {wording for group in wordings for wording in group}
    said |= {*summary.LOWERED, *summary.RAISED, *summary.UNCHANGED}
    said |= {summary.NOTHING, summary.SCATTERED, summary.ONLY_AGAINST, summary.OUTSIDE, summary.AGREEMENT, NO_OUTLINE}
    assert {sentence for sentence in said - catalog.keys() if not re.fullmatch(r"\d+\s%", sentence)} == set()


@pytest.mark.browser
@pytest.mark.parametrize("size", [(300, 80), (90, 120)], ids=["tall", "wide"])
def test_it_is_one_page_even_with_all_warnings(classifier, size):
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium is installed")
    explanation = explain(classifier, make_scan(size), "guided_grad_cam", "cat")
    long = PredictionWarning("code", "This sentence about the scan is as long as the longest warning is. " * 2)
    warned = replace(explanation, prediction=replace(explanation.prediction, warnings=(long,) * 4))
    revised = replace(classifier, info=replace(classifier.info, revision="0123456789abcdef" * 4))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_content(report_html(revised, warned))
        printed = page.pdf(prefer_css_page_size=True)
        browser.close()
    assert re.findall(rb"/Count (\d+)", printed) == [b"1"]
