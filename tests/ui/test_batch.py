"""Many images at once: one row each, in order, whatever is wrong with some; zips and spreadsheets do no harm."""

import csv
import io
import struct
import zipfile
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import Status

from brain_xai import load_checkpoint
from brain_xai.explanation import Cancelled
from brain_xai.preprocess import MAX_FILE_BYTES
from brain_xai.ui import batch
from brain_xai.ui.batch import MAX_IMAGES, BadBatch, NamedFile, Row, predict_all, to_csv, unpack
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import job_threads, served, wait_until

BROKEN = {"empty.png": b"", "note.png": b"It hurts.", "cut.png": b"\x89PNG\r\n\x1a\n" + bytes(40)}


@pytest.fixture(scope="module")
def scans(folder) -> list[Path]:
    """Four scans and three broken files, one of them in the middle."""
    for number, label in enumerate(LABELS):
        make_scan(label, number, side=90).save(folder / f"{label}.png")
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    names = ["glioma.png", "empty.png", "meningioma.png", "note.png", "notumor.png", "pituitary.png", "cut.png"]
    return [folder / name for name in names]


@pytest.fixture(scope="module")
def address(tiny, slow):
    with served(tiny, slow) as (_, address):
        yield address


@pytest.fixture(scope="module")
def client(address, folder) -> Client:
    return Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)


def named(paths: list[Path]) -> list[NamedFile]:
    return [NamedFile(path.name, path) for path in paths]


def zipped(path: Path, files: list[tuple[str, bytes]], **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def ignore(done: int, total: int, preview: object = None) -> None:
    """No-op progress callback."""


def test_each_file_gets_a_row_in_the_order_given(client, scans, tiny):
    files = [*scans, scans[0]]  # the same file twice
    table, table_file = client.predict([handle_file(path) for path in files], api_name="/batch")
    assert [row["file"] for row in table["rows"]] == [path.name for path in files]
    assert table["failed"] == 3
    classifier = load_checkpoint(tiny)
    for row, path in zip(table["rows"], files, strict=True):
        if path.name in BROKEN:
            assert row["label"] is None
            assert row["error"]
            assert "/" not in row["error"]
        else:
            assert row["error"] == ""
            assert row["label"] == classifier.predict(path).label
            assert row["probabilities"] == pytest.approx(classifier.predict(path).probabilities, abs=1e-6)
    assert table["checkpoint"]["id"] == tiny
    with Path(table_file).open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["file"] for row in listed] == [path.name for path in files]
    assert [row["label"] for row in listed] == [row["label"] or "" for row in table["rows"]]
    assert sum(float(listed[0][label]) for label in LABELS) == pytest.approx(1, abs=1e-5)
    assert "empty" in listed[1]["error"]


def test_a_zip_is_read_in_its_own_order(client, scans, tmp_path):
    members = [(f"study/{path.name}", path.read_bytes()) for path in reversed(scans)]
    hidden = [("__MACOSX/study/._glioma.png", b"x"), ("study/.DS_Store", b"x"), ("study/", b"")]
    archive = zipped(tmp_path / "scans.zip", [*members, *hidden], compression=zipfile.ZIP_DEFLATED)
    table, _ = client.predict([handle_file(archive), handle_file(scans[0])], api_name="/batch")
    assert [row["file"] for row in table["rows"]] == [*(name for name, _ in members), "glioma.png"]
    assert table["failed"] == 3
    assert table["rows"][-1]["probabilities"] == table["rows"][-2]["probabilities"]


def test_two_files_of_one_name_in_a_zip_are_two_images(tmp_path, scans, tiny):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = zipped(tmp_path / "a.zip", [("scan.png", scans[0].read_bytes()), ("scan.png", b"")])
    rows = predict_all(load_checkpoint(tiny), unpack(named([archive])), ignore).rows
    assert [bool(row.error) for row in rows] == [False, True]


def test_progress_counts_images_and_ends_the_work(scans, tiny):
    steps = []
    predict_all(load_checkpoint(tiny), named(scans), lambda done, total, table=None: steps.append((done, total)))
    assert steps == [(done, len(scans)) for done in range(len(scans) + 1)]

    def cancel(done: int, total: int, table: object = None) -> None:
        if done == 2:
            raise Cancelled

    before = set(scans[0].parent.iterdir())
    with pytest.raises(Cancelled):
        predict_all(load_checkpoint(tiny), named(scans), cancel)
    assert set(scans[0].parent.iterdir()) == before  # nothing is left behind


def test_a_cancelled_batch_ends_on_the_server_leaves_its_rows_and_the_next_one_finishes(client, scans, slow, tmp_path):
    members = [(f"{number}.png", b"" if number == 1 else scans[0].read_bytes()) for number in range(400)]
    archive = zipped(tmp_path / "many.zip", members)
    job = client.submit([handle_file(archive)], slow, api_name="/batch")
    assert wait_until(lambda: job.status().code is Status.PROGRESS and job.status().progress_data[0].index > 0)
    assert job.status().progress_data[0].length == 400
    assert wait_until(lambda: job.outputs() and len(job.outputs()[-1][0]["rows"]) > 2)
    job.cancel()
    assert wait_until(lambda: not job_threads())
    table, table_file = job.outputs()[-1]
    assert 2 < len(table["rows"]) < table["total"] == 400
    assert [row["file"] for row in table["rows"]] == [f"{number}.png" for number in range(len(table["rows"]))]
    assert [bool(row["error"]) for row in table["rows"][:3]] == [False, True, False]
    assert table["failed"] == 1
    with Path(table_file).open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [row["file"] for row in table["rows"]]
    table, _ = client.predict([handle_file(scans[0])], slow, api_name="/batch")
    assert (len(table["rows"]), table["failed"], table["total"]) == (1, 0, 1)


def test_a_map_does_not_wait_for_the_end_of_a_batch(client, scans, slow, tiny, tmp_path):
    archive = zipped(tmp_path / "many.zip", [(f"{number}.png", scans[0].read_bytes()) for number in range(400)])
    job = client.submit([handle_file(archive)], slow, api_name="/batch")
    assert wait_until(lambda: job.status().code is Status.PROGRESS and job.status().progress_data[0].index > 0)
    client.predict(image=handle_file(scans[0]), checkpoint=tiny, api_name="/explain")
    assert not job.done()
    job.cancel()
    assert wait_until(lambda: not job_threads())


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        *((f"{start}cmd|' /C calc'!A0.png", f"'{start}cmd|' /C calc'!A0.png") for start in "=+-@\t|%"),
        ("  =1+1.png", "'  =1+1.png"),
        ('a,"b"\n.png', 'a,"b"\n.png'),
        ("Jürgen 1-2.png", "Jürgen 1-2.png"),
    ],
)
def test_no_cell_is_a_formula(name, cell):
    text = to_csv([Row(name, "=glioma", {"=glioma": 1.0}, ("low_margin",), "=1+1")], ["=glioma"])
    header, row = csv.reader(io.StringIO(text))
    assert header == ["file", "label", "'=glioma", "warnings", "error"]
    assert row == [cell, "'=glioma", "1.000000", "low_margin", "'=1+1"]


def test_hostile_zips_get_a_sentence(tmp_path, tiny):
    bomb = zipped(tmp_path / "bomb.zip", [("bomb.png", bytes(MAX_FILE_BYTES + 1))], compression=zipfile.ZIP_DEFLATED)
    unusual = zipped(tmp_path / "bz.zip", [("bomb.png", bytes(10**6))], compression=zipfile.ZIP_BZIP2)
    nested = zipped(tmp_path / "nested.zip", [("bomb.zip", bomb.read_bytes())])
    damaged = bytearray(zipped(tmp_path / "x.zip", [("scan.png", bytes(range(256)) * 9)]).read_bytes())
    damaged[100] ^= 255
    (tmp_path / "damaged.zip").write_bytes(damaged)
    locked = bytearray(zipped(tmp_path / "y.zip", [("scan.png", b"x")]).read_bytes())
    locked[6] |= 1
    locked[locked.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    (tmp_path / "cut.zip").write_bytes(bomb.read_bytes()[:-30])
    outside = zipped(tmp_path / "outside.zip", [("../../outside.png", b"x")])
    names = [bomb.name, unusual.name, nested.name, "damaged.zip", "locked.zip", "cut.zip", outside.name]
    rows = predict_all(load_checkpoint(tiny), unpack(named([tmp_path / name for name in names])), ignore).rows
    sentences = ["larger than 20 MB", "unusual way", "ZIP archive", "damaged", "password", "cannot be read", "image"]
    for row, sentence in zip(rows, sentences, strict=True):
        assert sentence in row.error
    assert not (tmp_path.parent.parent / "outside.png").exists()


def test_a_file_without_a_name_in_a_zip_is_an_image(tmp_path, scans, tiny):
    content = zipped(tmp_path / "named.zip", [("a name", scans[0].read_bytes())]).read_bytes()
    (tmp_path / "nameless.zip").write_bytes(content.replace(b"a name", b"\0 name"))  # a name ends at its first zero
    [row] = predict_all(load_checkpoint(tiny), unpack(named([tmp_path / "nameless.zip"])), ignore).rows
    assert (row.file, row.error) == ("", "")


def test_a_batch_that_is_too_large_is_refused_before_it_is_read(tmp_path, scans):
    with pytest.raises(BadBatch, match="more than 1,000 images"):
        unpack(named([scans[0]] * (MAX_IMAGES + 1)))
    many = zipped(tmp_path / "many.zip", [(f"{number}.png", b"") for number in range(MAX_IMAGES + 1)])
    with pytest.raises(BadBatch, match="more than 1,000 images"):
        unpack(named([many]))
    end = bytearray(many.read_bytes())
    struct.pack_into("<I", end, end.rfind(batch.END_OF_DIRECTORY) + 12, 2**31)
    (tmp_path / "large.zip").write_bytes(end)
    with pytest.raises(BadBatch, match="more than 1,000 images"):
        unpack(named([tmp_path / "large.zip"]))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (None, "no images in this batch"),
        ([], "no images in this batch"),
        ([None], "cannot be read"),
        (["/etc/passwd"], "cannot be read"),
    ],
)
def test_a_batch_without_images_gets_a_sentence(files, sentence, client):
    with pytest.raises(AppError, match=sentence) as error:
        client.predict(files, api_name="/batch")
    assert "/etc" not in str(error.value)


def test_an_empty_zip_gets_a_sentence(tmp_path):
    with pytest.raises(BadBatch, match="no images in this batch"):
        unpack(named([zipped(tmp_path / "empty.zip", [])]))
