"""The cases that a visitor can click on: read from a folder, judged by the answer of the model that is served."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from brain_xai import load_checkpoint
from brain_xai.checkpoint.catalog import BUNDLED, bundled_checkpoints, examples_folder
from brain_xai.checkpoint.hub import EXAMPLE_NAME
from brain_xai.classifier import CheckpointInfo, Prediction, PredictionWarning
from brain_xai.ui.cases import NOT_A_BRAIN, Case, cases_of, read_cases, verdict, verdicts
from brain_xai.ui.phantoms import phantoms
from tests.helpers.scans import make_scan

COLUMNS = ("file", "caption", "label", "sequence", "x_min", "y_min", "x_max", "y_max", "credit", "lesson")
EXAMPLES = BUNDLED / "examples"
# What "figshare", "TCGA-LGG" and "IXI" ask for, and what was drawn here.
LICENSES = ("CC BY 4.0", "CC BY 3.0", "CC BY-SA 3.0", "MIT license")


@pytest.fixture(scope="module")
def shipped() -> list[Case]:
    return cases_of(bundled_checkpoints())


def write_cases(folder: Path, *rows: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    make_scan("glioma", 0).save(folder / "scan.png")
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def answer(label: str, *codes: str) -> Prediction:
    warnings = tuple(PredictionWarning(code, code) for code in codes)
    return Prediction({"glioma": 0.5, "notumor": 0.5}, label, warnings, CheckpointInfo("x", "y", "z"))


def case(label: str) -> Case:
    return Case("scan.png", "T1, axial", label)


def test_every_image_of_the_bundle_is_a_case_with_a_license_and_the_other_way_round(shipped):
    """No scan may slip in without its credit line."""
    files = {path.name for path in EXAMPLES.iterdir()}
    assert files == {"cases.csv", *(Path(case.file).name for case in shipped)}
    assert all(case.credit.endswith(LICENSES) or "CC BY" in case.credit for case in shipped)
    scans = [path for path in BUNDLED.glob("*/*/*") if "examples" in path.parts or "maps" in path.name]
    assert scans == []


def test_the_bundle_stays_small_and_safe_to_fetch(shipped):
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 400_000
    assert all(EXAMPLE_NAME.fullmatch(f"examples/{Path(case.file).name}") for case in shipped)


def test_the_bundled_checkpoints_share_their_cases(shipped):
    assert len(bundled_checkpoints()) > 1
    assert {examples_folder(name) for name in bundled_checkpoints()} == {EXAMPLES}
    assert len({case.file for case in shipped}) == len(shipped) == 13


def test_the_texts_of_a_case_are_short_and_its_caption_does_not_give_the_truth_away(shipped):
    words = ("glioma", "meningioma", "pituitary", "tumor", "healthy", "cat")
    for shown in shipped:
        assert 0 < len(shown.lesson) <= 140
        assert not any(word in shown.caption.lower().split() for word in words)


def test_the_bright_tumors_are_where_their_boxes_say(shipped):
    """A box that was shifted or mirrored would lie on plain tissue or beside the head."""
    bright = [shown for shown in shipped if shown.box and "bright" in shown.lesson.lower().split()]
    assert len(bright) > 3
    for shown in bright:
        pixels = np.asarray(Image.open(shown.file).convert("L"), dtype=float)
        height, width = pixels.shape
        x_min, y_min, x_max, y_max = (
            round(edge * side) for edge, side in zip(shown.box, (width, height) * 2, strict=True)
        )
        inside = pixels[y_min:y_max, x_min:x_max]
        around = pixels[max(2 * y_min - y_max, 0) : 2 * y_max - y_min, max(2 * x_min - x_max, 0) : 2 * x_max - x_min]
        assert np.percentile(inside, 90) > 1.3 * np.median(around), shown.file


def test_a_checkpoint_brings_its_own_cases(tmp_path):
    row = {"file": "scan.png", "caption": "T1, axial", "label": "glioma", "credit": "me", "lesson": "Look."}
    box = {"x_min": "0.1", "y_min": "0.2", "x_max": "0.3", "y_max": "0.4"}
    write_cases(tmp_path / "examples", row | box, row)
    first, second = cases_of([str(tmp_path)])
    assert first == Case(
        str(tmp_path / "examples" / "scan.png"), "T1, axial", "glioma", "", (0.1, 0.2, 0.3, 0.4), "me", "Look."
    )
    assert second.box is None
    assert cases_of([str(tmp_path), str(tmp_path)]) == [first, second]


@pytest.mark.parametrize(
    "row",
    [
        {"file": "../scan.png"},
        {"file": "missing.png"},
        {"file": ""},
        {"file": "scan.png", "x_min": "0.1"},
        {"file": "scan.png", "x_min": "0.5", "y_min": "0.1", "x_max": "0.2", "y_max": "0.3"},
        {"file": "scan.png", "x_min": "nan", "y_min": "0.1", "x_max": "0.2", "y_max": "0.3"},
        {"file": "scan.png", "x_min": "10", "y_min": "10", "x_max": "20", "y_max": "20"},
    ],
)
def test_a_row_that_cannot_be_used_is_left_out(tmp_path, row):
    """A checkpoint from the Hub may hold anything."""
    make_scan("glioma", 0).save(tmp_path / "scan.png")
    write_cases(tmp_path / "examples", row, {"file": "scan.png"})
    assert [Path(case.file).name for case in read_cases(tmp_path / "examples")] == ["scan.png"]


def test_a_list_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "cases.csv").write_bytes(b"\xff\xfe\x00file")
    assert read_cases(tmp_path) == []


def test_without_cases_there_are_phantoms(tmp_path):
    cases = cases_of([str(tmp_path)])
    assert [case.caption for case in cases] == [caption for caption, _ in phantoms()]
    assert all(Path(case.file).is_file() and case.label == "" for case in cases)


def test_phantoms_say_what_they_are():
    images = [image for _, image in phantoms()]
    assert all("synthetic phantom" in caption for caption, _ in phantoms())
    assert ImageChops.difference(images[0], images[1]).getbbox()
    assert all(np.asarray(image)[-22:].max() > 150 for image in images)  # the words on the image


def test_a_verdict_follows_from_the_answer():
    assert verdict(case("glioma"), answer("glioma")) == "right"
    assert verdict(case("glioma"), answer("notumor")) == "wrong"
    assert verdict(case("glioma"), answer("glioma", "low_margin")) == "doubtful"
    assert verdict(case("glioma"), answer("notumor", "low_margin")) == "wrong"
    assert verdict(case("notumor"), answer("notumor", "evidence_against")) == "doubtful"
    assert verdict(case("glioma"), answer("glioma", "hub_unreachable")) == "right"
    assert verdict(case("glioma"), answer("glioma", "not_brain_mri")) == "refused"


def test_an_image_of_no_brain_is_only_answered_right_by_a_refusal():
    assert verdict(case(NOT_A_BRAIN), answer("notumor", "not_brain_mri")) == "refused"
    assert verdict(case(NOT_A_BRAIN), answer("notumor")) == "wrong"


def test_without_a_truth_that_the_model_knows_there_is_no_verdict():
    assert verdict(case(""), answer("glioma")) is None
    assert verdict(case("abscess"), answer("glioma")) is None


def test_the_verdicts_are_those_of_the_model_that_is_served(shipped):
    """They come from its answers: a model that knows nothing gets other ones."""
    classifier = load_checkpoint(bundled_checkpoints()[0])
    found = verdicts(classifier, shipped)
    for shown in shipped:
        assert found[shown.file] == verdict(shown, classifier.predict(shown.file))
    assert verdicts(classifier, shipped) is found
