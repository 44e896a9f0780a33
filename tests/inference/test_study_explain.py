"""A study explained: answers per slice, maps at the right place of the volume, and nothing of the patient anywhere."""

import csv
import gzip
import io
import logging
import re
from dataclasses import replace
from datetime import date

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.pixels import pixel_array
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from brain_xai.classifier import Classifier, PredictionWarning
from brain_xai.explanation import Cancelled, MethodNotApplicable
from brain_xai.overlay import draw_box
from brain_xai.preprocess import UnreadableImage
from brain_xai.study import (
    StudyExplanation,
    explain_study,
    read_study,
    report_html,
    rows,
    save,
    strip_html,
    table,
    to_dicom,
    to_nifti,
)
from brain_xai.study.annotation import has_text
from brain_xai.study.head import Place
from tests.helpers.nets import LABELS, PLAIN, Blocks, make_classifier, make_timm
from tests.helpers.studies import PATIENT, head, series_of, to_bytes, write, write_nifti, zipped

SHEARED = np.array([[0, 0.2, 4.0, -50], [-1.0, 0, 0.5, 40], [0, -1.1, 0, 90], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def bright() -> Classifier:
    """The logit of "cat" is 10 + 4 x brightness, and its map the brightness: known by hand."""
    return replace(make_classifier(Blocks(), (64, 64), PLAIN), no_tumor_label="dog")


@pytest.fixture(scope="module")
def explained(bright, tmp_path_factory) -> StudyExplanation:
    """20 slices, of which the outer ones are empty and slice 12 is the brightest."""
    volume = head(slices=20)
    volume[:3] = volume[18:] = 0
    volume[11] = np.where(volume[11] > 0, 600 + volume[11] // 2, 0)
    return explain_study(bright, read_study(write(tmp_path_factory.mktemp("a") / "series", series_of(volume))))


@pytest.fixture(scope="module")
def small(bright, tmp_path_factory) -> StudyExplanation:
    """Three slices."""
    folder = tmp_path_factory.mktemp("small") / "series"
    return explain_study(bright, read_study(write(folder, series_of(head(slices=3)))))


def test_each_slice_is_answered_like_the_same_image_alone(explained, bright):
    for index in (0, 7, 11, 19):
        alone = bright.predict(explained.study.image(index))
        assert explained.predictions[index].probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_a_trained_models_batches_answer_like_single_slices(tmp_path):
    classifier = make_timm("test_resnet", (64, 64))
    study = read_study(write(tmp_path / "a", series_of(head(slices=11))))
    answers = explain_study(classifier, study).predictions
    for index in (0, 7, 8, 10):
        alone = classifier.predict(study.image(index))
        assert answers[index].probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_the_most_suspicious_slices_come_first_and_empty_ones_last(explained):
    ranking = explained.ranking()
    assert ranking[0] == 11
    assert sorted(ranking) == list(range(20))
    assert set(ranking[-5:]) == {0, 1, 2, 18, 19}
    inside = [explained.suspicion(index) for index in ranking[:-5]]
    assert inside == sorted(inside, reverse=True)


def test_highlights_do_not_lie_side_by_side(explained):
    chosen = explained.highlights(3)
    assert chosen[0] == explained.ranking()[0]
    assert len(set(chosen)) == 3


def test_slices_beyond_and_at_the_ends_of_the_head_are_marked(explained):
    """15 slices of head: one eighth of them at each end."""
    expected = [Place.OUTSIDE] * 3 + [Place.EDGE] + [Place.INSIDE] * 13 + [Place.EDGE] + [Place.OUTSIDE] * 2
    assert list(explained.places) == expected
    codes = [[warning.code for warning in prediction.warnings] for prediction in explained.predictions]
    assert codes[0] == ["outside_head"]
    assert codes[3] == ["edge_of_head"]
    assert codes[9] == []


def test_suspicion_is_what_is_left_without_the_healthy_class(explained, bright):
    probabilities = explained.predictions[9].probabilities
    assert explained.suspicion(9) == pytest.approx(probabilities["cat"] + probabilities["owl"])
    assert explained.label in ("cat", "owl")
    without = replace(explained, classifier=replace(bright, no_tumor_label=None))
    assert without.suspicion(9) == pytest.approx(probabilities[explained.label])


def test_target_and_method_are_checked(bright, explained):
    assert explain_study(bright, explained.study, target="dog").label == "dog"
    assert explain_study(bright, explained.study, target=0).label == "cat"
    for wrong in ({"target": "horse"}, {"target": "predicted"}, {"method": "guess"}):
        with pytest.raises(ValueError, match="Use"):
            explain_study(bright, explained.study, **wrong)
    with pytest.raises(MethodNotApplicable):
        explain_study(make_timm("test_efficientnet", (64, 64)), explained.study, method="guided_backprop")


def test_progress_can_end_the_work(bright, explained):
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done >= 8:
            raise Cancelled

    with pytest.raises(Cancelled):
        explain_study(bright, explained.study, progress=stop)
    assert seen == [(8, 20)]


@pytest.mark.parametrize("affine", [np.diag([2.0, 1.5, 3.0, 1]), SHEARED], ids=["straight", "sheared"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_saved_map_points_where_the_scan_is_bright(affine, plane, bright, tmp_path):
    """One bright cube; in any viewer the highest place of the map lies on it, in millimeters."""
    values = np.full((48, 40, 44), 50, dtype=np.int16)
    values[30:36, 8:14, 20:26] = 400
    path = write_nifti(tmp_path / "a.nii.gz", values, affine)
    explained = explain_study(bright, read_study(path, plane=plane), target="cat")
    saved = nibabel.Nifti1Image.from_bytes(gzip.decompress(to_nifti(explained)))
    original = nibabel.load(path)
    assert saved.shape == original.shape
    assert saved.get_data_dtype() == np.float32
    np.testing.assert_allclose(saved.affine, original.affine, atol=1e-5)
    found = np.asarray(saved.dataobj)
    highest = np.argwhere(found > 0.9 * found.max()).mean(axis=0)
    difference = saved.affine[:3, :3] @ (highest - (32.5, 10.5, 22.5))
    # The map has 8 x 8 cells per slice: half a cell is 3 of 48 voxels, at most 2 to 4.5 mm each.
    assert np.abs(difference).max() < 3 * np.linalg.norm(affine[:3, :3], axis=0).max()
    assert saved.header["cal_max"] == pytest.approx(explained.explanation(0).scale)


def test_the_map_of_a_dicom_series_lies_where_its_positions_say(bright, tmp_path):
    volume = np.full((10, 64, 64), 50, dtype=np.uint16)
    volume[6, 16:24, 40:48] = 400
    study = read_study(write(tmp_path / "a", series_of(volume, PixelSpacing=[2.0, 1.0])))
    saved = nibabel.Nifti1Image.from_bytes(gzip.decompress(to_nifti(explain_study(bright, study, target="cat"))))
    found = np.asarray(saved.dataobj)
    highest = np.argwhere(found > 0.95 * found.max()).mean(axis=0)
    x, y, z = (saved.affine @ (*highest, 1))[:3]
    # The middle of column 40 to 47, row 16 to 23 and slice 6: DICOM -20 + 43.5, -30 + 2 x 19.5, 10 + 5 x 6.
    np.testing.assert_allclose((x, y, z), (-23.5, -9, 40), atol=2.5)
    assert z == pytest.approx(40)


def read_back(explained: StudyExplanation) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(to_dicom(explained)))


def test_the_dicom_map_shows_what_is_drawn_under_new_identifiers(small):
    saved, again = read_back(small), read_back(small)
    assert saved.file_meta.MediaStorageSOPClassUID == MultiFrameTrueColorSecondaryCaptureImageStorage
    assert saved.NumberOfFrames == 3
    uids = {"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"}
    both = {getattr(one, name) for one in (saved, again) for name in uids}
    assert len(both) == 8
    assert (saved.PatientName, saved.PatientID, saved.BurnedInAnnotation) == ("", "", "NO")
    assert "Not for diagnosis" in saved.SeriesDescription
    assert "revision 0" in saved.DerivationDescription
    frames = pixel_array(saved, raw=False)
    for index in range(3):
        drawn = np.asarray(small.explanation(index).image(), dtype=float)
        assert frames[index].shape == drawn.shape
        assert np.abs(frames[index] - drawn).mean() < 2  # JPEG


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_the_frames_of_the_dicom_map_lie_where_the_slices_do(plane, bright, tmp_path):
    """The middle of each frame, found as DICOM says, is the middle of the slice; sizes are those of the head."""
    path = write_nifti(
        tmp_path / "a.nii.gz", head(slices=32, rows=36, columns=34).transpose(2, 1, 0), np.diag([-2.0, 1.5, 3.0, 1])
    )
    explained = explain_study(bright, read_study(path, plane=plane))
    saved = read_back(explained)
    shared = saved.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    right, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    columns, rows = draw_box(explained.study.image(0), (0, 0, 1, 1)).size  # without the color bar
    assert saved.Columns == columns
    for index in (0, 7):
        position = saved.PerFrameFunctionalGroupsSequence[index].PlanePositionSequence[0].ImagePositionPatient
        middle = np.array(position, dtype=float)
        middle += (
            right * measures.PixelSpacing[1] * (columns - 1) / 2 + down * measures.PixelSpacing[0] * (rows - 1) / 2
        )
        np.testing.assert_allclose(middle * (-1, -1, 1), explained.study.center(index), atol=1e-2)
    extent = {"axial": (68, 54), "sagittal": (54, 96)}[plane]
    found = (measures.PixelSpacing[1] * columns, measures.PixelSpacing[0] * rows)
    np.testing.assert_allclose(found, extent, rtol=1e-4)


def test_a_dicom_map_of_slices_that_dicom_cannot_place_or_that_show_text(bright, tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", head(slices=36).transpose(2, 1, 0)[:, :10], SHEARED)
    assert "SharedFunctionalGroupsSequence" not in read_back(explain_study(bright, read_study(path, plane="axial")))
    folder = write(tmp_path / "a", series_of(head(slices=2), BurnedInAnnotation="YES"))
    assert read_back(explain_study(bright, read_study(folder))).BurnedInAnnotation == "YES"


def test_a_dicom_map_reports_its_progress(small):
    seen = []
    to_dicom(small, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 3) for done in range(1, 4)]


def test_a_study_is_saved_by_the_ending_of_the_path(small, tmp_path):
    for name in ("a.csv", "a.html", "A.NII.GZ", "b.v1.dcm"):
        assert save(small, tmp_path / "new" / name) == tmp_path / "new" / name
    assert (tmp_path / "new" / "a.csv").read_bytes().decode("utf-8-sig") == table(small)
    assert nibabel.load(tmp_path / "new" / "A.NII.GZ").shape == small.study.volume.values.shape
    assert pydicom.dcmread(tmp_path / "new" / "b.v1.dcm").NumberOfFrames == 3
    with pytest.raises(ValueError, match=r"\.csv, \.html, \.nii\.gz, \.dcm"):
        save(small, tmp_path / "a.nii")


def test_the_rows_are_numbers_and_text(explained):
    first = rows(explained)[3]
    assert (first["slice"], first["place"], first["z"]) == (4, "edge", 25.0)
    assert first["p_cat"] == explained.predictions[3].probabilities["cat"]
    nowhere = replace(explained.study, volume=replace(explained.study.volume, located=False))
    assert rows(replace(explained, study=nowhere))[0]["x"] is None


def test_places_below_zero_are_no_formula(explained):
    moved = explained.study.volume.affine.copy()
    moved[0, 3] -= 100
    study = replace(explained.study, volume=replace(explained.study.volume, affine=moved))
    written = table(replace(explained, study=study))
    assert {row["x"] for row in csv.DictReader(io.StringIO(written))} == {"-99.50"}


def test_the_table(explained):
    rows = list(csv.DictReader(io.StringIO(table(explained))))
    assert [row["slice"] for row in rows] == [str(number) for number in range(1, 21)]
    for row, prediction in zip(rows, explained.predictions, strict=True):
        assert row["label"] == prediction.label
        for label in LABELS:
            assert float(row[f"p_{label}"]) == pytest.approx(prediction.probabilities[label], abs=1e-6)
    assert (rows[0]["place"], rows[0]["warnings"], rows[3]["z"]) == ("outside", "outside_head", "25.00")
    assert (rows[0]["checkpoint"], rows[0]["revision"]) == ("test", "0")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(start, explained, bright):
    evil = replace(bright, label_names=(f"{start}cmd()", "dog", "owl"))
    predictions = tuple(
        replace(one, label=f"{start}cmd()", probabilities=dict(zip(evil.label_names, (0.8, 0.1, 0.1), strict=True)))
        for one in explained.predictions
    )
    written = table(replace(explained, classifier=evil, predictions=predictions))
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert rows[1][5] == f"'{start}cmd()"
    numbers = {2, 3, 4}  # coordinates may be negative
    for row in rows:
        assert not any(
            cell.startswith(("=", "+", "-", "@", "\t", "\r")) for k, cell in enumerate(row) if k not in numbers
        )


def test_the_strip_shows_every_slice(explained):
    drawn = strip_html(explained, current=4)
    assert drawn.count("<title>") == 20
    assert "Slice 12: cat" in drawn
    assert "bottom: slice 1" in drawn
    assert "top: slice 20" in drawn
    assert drawn.count('opacity="0.25"') == 5  # beyond the head


def test_labels_are_text_not_markup(explained, bright):
    evil = replace(bright, label_names=("<script>", "dog", "owl"))
    predictions = tuple(
        replace(one, probabilities={"<script>": 0.8, "dog": 0.1, "owl": 0.1}) for one in explained.predictions
    )
    changed = replace(explained, classifier=evil, predictions=predictions)
    for text in (strip_html(changed), report_html(changed)):
        assert "<script>" not in text


def test_the_report_says_what_it_must(explained, bright):
    warning = PredictionWarning("made_up", "Something about all slices.")
    measured = {"test": {"accuracy": {"value": 0.912, "low": 0.9, "high": 0.92}, "n": 1311}}
    full = replace(explained, warnings=(warning,), classifier=replace(bright, metrics=measured))
    page = report_html(full, date(2026, 1, 31))
    for words in (
        "Not for diagnosis",
        "There is no answer for the patient",
        "Something about all slices.",
        "revision 0",
        "20 slices, axial, 5.0 mm apart",
        "Slice 12",
        "2026-01-31",
        "right on 91 % of 1,311 test slices",
    ):
        assert words in page
    assert page.count("<img") == 3
    assert "http" not in page.replace("http-equiv", "")  # nothing is loaded from anywhere


@pytest.mark.parametrize("kind", ["dicom", "zip", "nifti"])
def test_nothing_of_the_patient_is_in_any_output(kind, bright, tmp_path, caplog, capfd):
    members = {f"{PATIENT}/{number}": to_bytes(one) for number, one in enumerate(series_of(head()))}
    values, affine = head().transpose(2, 1, 0), np.diag([1, 1, 5, 1.0])
    files = {
        "dicom": lambda: write(tmp_path / PATIENT, series_of(head())),
        "zip": lambda: zipped(tmp_path / f"{PATIENT}.zip", members),
        "nifti": lambda: write_nifti(tmp_path / f"{PATIENT}.nii.gz", values, affine),
    }
    path = files[kind]()
    with caplog.at_level(logging.DEBUG):
        explained = explain_study(bright, read_study(path))
        saved = gzip.decompress(to_nifti(explained))
        outputs = [
            report_html(explained),
            table(explained),
            strip_html(explained),
            repr(explained),
            repr(explained.study),
        ]
        drawn = read_back(explained)
        del drawn.PixelData
        outputs.append(str(drawn) + str(drawn.file_meta))
    captured = capfd.readouterr()
    outputs[0] = re.sub(r'base64,[^"]+', "", outputs[0])  # pixels, in which any four letters may occur
    text = "".join([*outputs, saved.decode("latin-1"), caplog.text, captured.out, captured.err])
    assert PATIENT[:17] in path.name  # the search would find it
    for secret in ("DOE^", "JANE", "_1961"):
        assert secret not in text


def test_text_in_a_corner_is_told(bright, tmp_path):
    from PIL import Image, ImageDraw, ImageFont

    volume = np.zeros((5, 256, 256), dtype=np.uint16)
    y, x = np.mgrid[:256, :256]
    volume[:, np.hypot(y - 128, x - 128) < 90] = 500
    clean = read_study(write(tmp_path / "clean", series_of(volume)))
    assert clean.notes == ()
    page = Image.new("L", (256, 256))
    ImageDraw.Draw(page).text((6, 6), PATIENT, fill=255, font=ImageFont.load_default(size=12))
    volume[:, np.asarray(page) > 128] = 900
    study = read_study(write(tmp_path / "written", series_of(volume)))
    assert has_text(study.image(0))
    assert [note.code for note in study.notes] == ["text_in_image"]
    assert [warning.code for warning in explain_study(bright, study).warnings] == ["text_in_image"]


def test_slices_too_small_to_show_a_head_are_refused(bright, tmp_path):
    study = read_study(write(tmp_path / "a", series_of(head(rows=20, columns=20))))
    with pytest.raises(UnreadableImage, match="at least 32"):
        explain_study(bright, study)
