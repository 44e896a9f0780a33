"""A study through the API and on the page: from the upload to what is taken away."""

import csv
import gzip
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from brain_xai import load_checkpoint
from brain_xai.study import explain_study, read_study
from brain_xai.ui import callers, study_page
from brain_xai.ui.study_shelf import OpenStudy, Shelf
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import job_threads, served, upload, wait_until
from tests.helpers.studies import PATIENT, head, series_of, to_bytes, write, write_nifti, zipped

SLICES = 10


@pytest.fixture(scope="module")
def series(folder) -> Path:
    return write(folder / "series", series_of(head(slices=SLICES)))


@pytest.fixture(scope="module")
def archive(folder, series) -> Path:
    return zipped(folder / "series.zip", {file.name: file.read_bytes() for file in series.iterdir()})


@pytest.fixture(scope="module")
def client(tiny, slow, folder):
    with served(tiny, slow) as (_, address):
        yield Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)


def test_a_series_through_the_api(client, series, tiny, capfd):
    files = [handle_file(file) for file in series.iterdir()]
    facts, table, saved_map, report = client.predict(files=files, target="glioma", api_name="/study")
    expected = explain_study(load_checkpoint(tiny), read_study(series), target="glioma")
    assert [entry["slice"] for entry in facts["slices"]] == list(range(1, SLICES + 1))
    for entry, prediction in zip(facts["slices"], expected.predictions, strict=True):
        assert entry["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)
    assert facts["first"] == [index + 1 for index in expected.ranking()]
    assert facts["study"] == {
        "kind": "DICOM",
        "slices": SLICES,
        "plane": "axial",
        "ends": ["bottom", "top"],
        "spacing": [5, 1, 1],
    }
    assert (facts["label"], facts["method"]) == ("glioma", "grad_cam")
    rows = list(csv.DictReader(Path(table).read_text("utf-8-sig").splitlines()))
    assert len(rows) == SLICES
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(Path(saved_map).read_bytes()))
    np.testing.assert_allclose(np.asarray(image.dataobj), expected.volume_map(), atol=1e-5)
    assert "Not for diagnosis" in Path(report).read_text()
    captured = capfd.readouterr()
    everything = str(facts) + Path(table).read_text() + captured.out + captured.err + str(saved_map) + str(report)
    assert "JANE" not in everything


def test_the_drawn_maps_as_dicom(client, archive):
    _, _, saved, _ = client.predict(files=[handle_file(archive)], map_format="dicom", api_name="/study")
    drawn = pydicom.dcmread(saved)
    assert (drawn.NumberOfFrames, drawn.SamplesPerPixel, drawn.PatientName) == (SLICES, 3, "")


def test_a_volume_in_another_plane(client, folder):
    path = write_nifti(folder / "a.nii.gz", head(slices=40).transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1]))
    facts = client.predict(files=[handle_file(path)], plane="coronal", api_name="/study")[0]
    assert (facts["study"]["plane"], facts["study"]["slices"], facts["label"] in LABELS) == ("coronal", 48, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "guess"}, "Use one of"),
        ({"target": "horse"}, "Use one of"),
        ({"plane": "oblique"}, "Use one of"),
        ({"series": 3}, "no series 3"),
        ({"map_format": "gif"}, "nifti, dicom"),
        ({"map_format": ["nifti"]}, "nifti, dicom"),
        ({"series": "x"}, "whole number"),
        ({"checkpoint": "/etc"}, "no such checkpoint"),
        ({"files": []}, "no files"),
    ],
)
def test_bad_calls_get_a_sentence(arguments, words, client, archive, capfd):
    with pytest.raises(AppError) as error:
        client.predict(**{"files": [handle_file(archive)], **arguments}, api_name="/study")
    assert words in error.value.message
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_canceled_study_leaves_its_answers_and_lets_maps_pass(client, slow, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(callers, "PARTIAL_SECONDS", 0.1)
    make_scan("glioma", 0, side=90).save(tmp_path / "scan.png")
    volume = write_nifti(tmp_path / "a.nii.gz", head(slices=60).transpose(2, 1, 0), np.diag([-1.0, -1, 5, 1]))
    job = client.submit([handle_file(volume)], slow, api_name="/study")
    assert wait_until(job.outputs)
    client.predict(image=handle_file(tmp_path / "scan.png"), checkpoint=tiny, api_name="/explain")
    assert not job.done()
    job.cancel()
    assert wait_until(lambda: not job_threads())
    facts, table, saved_map, report = job.outputs()[-1]
    assert len(facts["slices"]) == len(facts["first"]) == 60
    assert len(Path(table).read_text("utf-8-sig").splitlines()) == 61
    assert saved_map is None
    assert "Not for diagnosis" in Path(report).read_text()


def test_two_series_are_refused_with_the_choice(client, folder):
    mixed = {str(k): to_bytes(one) for k, one in enumerate(series_of(head(slices=4)) + series_of(head(slices=2)))}
    files = [handle_file(zipped(folder / "mixed.zip", mixed))]
    with pytest.raises(AppError, match=r"2 series: 1 \(4 slices, axial\), 2 \(2 slices, axial\)"):
        client.predict(files=files, api_name="/study")
    assert client.predict(files=files, series=2, api_name="/study")[0]["study"]["slices"] == 2


def test_a_single_slice_is_an_image_for_the_other_endpoints(client, series):
    answer = client.predict(image=handle_file(next(iter(series.iterdir()))), api_name="/predict")
    assert answer["input"]["width"] == 40
    assert PATIENT not in str(answer)


def opened(archive: Path, **choices) -> list[study_page.Update]:
    values = {"checkpoint": "default", "method": "grad_cam", "plane": "", "series": None, "before": None} | choices
    return list(study_page._open([upload(archive)], *values.values()))


@pytest.fixture
def here(tiny, monkeypatch):
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", tiny)


def test_the_page_opens_a_study_and_follows_the_slider(archive, here):
    updates = opened(archive)
    update = updates[-1]._replace(name=updates[0].name)
    assert update.result["visible"] is True
    assert f"{SLICES} slices, axial, 5.0 mm apart" in update.notice
    assert "Every slice is judged on its own" in update.notice
    moved = study_page._show(4, update.name, "slider")
    assert f"Slice 4 of {SLICES}" in moved.panel
    assert moved.panel.count("data:image/webp") == 2  # no file for anybody else to find
    assert moved.first["value"] == 4
    study_page.SHELF.remove(update.name)
    gone = study_page._show(4, update.name, "slider")
    assert "deleted" in gone.notice
    assert gone.result["visible"] is False


def test_the_page_offers_the_choice_of_a_series(folder, here):
    mixed = {str(k): to_bytes(one) for k, one in enumerate(series_of(head(slices=4)) + series_of(head(slices=2)))}
    path = zipped(folder / "mixed.zip", mixed)
    asking = opened(path)[-1]
    assert [value for _, value in asking.series["choices"]] == [1, 2]
    chosen = opened(path, series=2)
    assert "2 slices" in chosen[-1].notice
    study_page.SHELF.remove(chosen[0].name)


def test_the_page_says_what_is_wrong(folder, here):
    (folder / "note.txt").write_text("It hurts here.")
    update = opened(folder / "note.txt")[-1]
    assert 'role="alert"' in update.notice
    assert "no DICOM or NIfTI" in update.notice


def test_files_of_a_study_may_be_chosen_where_images_are(archive):
    section, paths = study_page._forward({"files": [upload(archive), upload(archive)]})
    assert section["open"] is True
    assert paths == [str(archive)] * 2
    for nonsense in (None, "x", {"files": "x"}, {"files": [7]}):
        assert study_page._forward(nonsense)[1] == []


@pytest.mark.parametrize("choice", [{"plane": "oblique"}, {"method": "guess"}, {"series": 9}])
def test_what_no_visitor_can_choose_gets_a_sentence(choice, archive, here):
    assert 'role="alert"' in opened(archive, **choice)[-1].notice


def test_the_page_shows_how_far_it_is(archive, here):
    updates = opened(archive)
    assert "Reading" in updates[0].notice
    assert f"Slice {SLICES} of {SLICES}" in updates[-2].notice
    study_page.SHELF.remove(updates[0].name)


def test_a_study_that_is_closed_while_it_is_opened_is_not_kept(archive, here):
    values = {"checkpoint": "default", "method": "grad_cam", "plane": "", "series": None, "before": None}
    updates = study_page._open([upload(archive)], *values.values())
    name = next(updates).name
    study_page.SHELF.remove(name)  # as when the visitor leaves
    assert not [update for update in updates if update.result.get("visible")]
    assert study_page.SHELF.get(name) is None
    assert name not in study_page.SHELF._asked
    assert wait_until(lambda: not job_threads())


def test_a_dropdown_that_asks_twice_opens_one_study(archive, here):
    values = {"checkpoint": "default", "method": "grad_cam", "plane": "coronal", "series": None}
    first = study_page._open([upload(archive)], *values.values(), None)
    name = next(first).name
    assert list(study_page._open([upload(archive)], *values.values(), name)) == [study_page.Update()]
    assert list(first)[-1].result["visible"] is True
    before = study_page.SHELF.get(name)
    assert list(study_page._open([upload(archive)], *values.values(), name)) == [study_page.Update()]
    assert study_page.SHELF.get(name) is before
    study_page.SHELF.remove(name)


def test_another_study_takes_the_place_of_the_one_that_is_being_opened(archive, here):
    first = study_page._open([upload(archive)], "default", "grad_cam", "coronal", None, None)
    name = next(first).name
    second = study_page._open([upload(archive)], "default", "grad_cam", "axial", None, name)
    assert next(second).name == name
    assert not [update for update in first if update.result.get("visible")]  # ends without an answer
    assert list(second)[-1].result["visible"] is True
    assert study_page.SHELF.get(name).explained.study.plane == "axial"
    study_page.SHELF.remove(name)
    assert not study_page.SHELF._studies


def test_a_refused_study_leaves_nothing_behind(folder, here):
    (folder / "note.txt").write_text("It hurts here.")
    before = set(study_page.SHELF._asked)
    assert "alert" in opened(folder / "note.txt")[-1].notice
    assert set(study_page.SHELF._asked) == before


def test_the_page_takes_smaller_volumes_than_python(folder, here):
    path = write_nifti(folder / "large.nii", np.zeros((2, 2, 2), np.int16), np.eye(4))
    content = bytearray(path.read_bytes())
    struct.pack_into("<4h", content, 40, 3, 512, 512, 400)
    path.write_bytes(content)
    assert "160 MB" in opened(path)[-1].notice


def saved(name: str) -> Iterator[tuple]:
    return study_page._saving(study_page.SAVES[study_page.SAVE_MAP])(name)


def test_the_map_of_a_study_is_saved_slice_by_slice(archive, here):
    name = opened(archive)[0].name
    *steps, (file, notice) = saved(name)
    assert f"Slice {SLICES} of {SLICES} …" in steps[-1][1]
    assert file["value"].endswith(".nii.gz")
    assert "Every slice is judged on its own" in notice
    leaving = saved(name)
    next(leaving)
    study_page.SHELF.remove(name)  # the visitor is gone
    assert not [file for file, _ in leaving if "value" in file]
    assert wait_until(lambda: not job_threads())
    assert "deleted" in next(saved(name))[1]


@pytest.fixture
def study(archive, tiny) -> OpenStudy:
    return OpenStudy(explain_study(load_checkpoint(tiny), read_study(archive)), threading.Event())


def test_maps_are_computed_ahead_nearest_first(study):
    study.current = 6
    study.compute_ahead(SLICES).join()
    assert list(study.explained._kept) == [6, 5, 7, 4, 8, 3, 9, 2, 1, 0]  # in the order of their computation


def test_nothing_is_computed_for_a_closed_study(study):
    before = list(study.explained._kept)
    study.closed.set()
    study.compute_ahead(SLICES).join()
    assert list(study.explained._kept) == before


def test_the_shelf_holds_a_few_studies_only(study):
    shelf = Shelf(capacity=2)
    names, events = zip(*(shelf.reserve(None, "a study") for _ in range(4)), strict=True)
    places = list(zip(names, events, strict=True))
    first, second = (shelf.put(*place, study.explained) for place in places[:2])
    assert shelf.get(names[0]) is first  # looked at last, so the other one goes
    third = shelf.put(*places[2], study.explained)
    assert [shelf.get(name) for name in names] == [first, None, third, None]
    assert [event.is_set() for event in events] == [False, True, False, False]
    shelf.remove(names[3])
    assert shelf.put(*places[3], study.explained) is None
    assert second is not None
    assert len(set(names)) == 4
    assert shelf.get(None) is None
