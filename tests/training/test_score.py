"""Answering an archive: every image once, in order, whatever happens in between."""

import io
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch

from brain_xai import explain, load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.preprocess import Preprocessing
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.training_runs import ENVIRONMENT, ROOT, on_two_processes, run
from training.score import main

BROKEN = {"b/empty.png": b"", "c/note.txt": b"no image", "d/cut.png": b"\x89PNG\r\n\x1a\n"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4)
    preprocessing = Preprocessing((48, 48), (0.5,) * 3, (0.25,) * 3, frame=True)
    save_checkpoint(folder, model, label_names=LABELS, preprocessing=preprocessing, brain_xai={})
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("archive")
    for number in range(21):
        file = root / "abcd"[number % 4] / f"{number:02d}.png"
        file.parent.mkdir(exist_ok=True)
        make_scan(LABELS[number % 4], number).save(file)
    for name, content in BROKEN.items():
        (root / name).write_bytes(content)
    return root


@pytest.fixture(scope="module")
def flags(checkpoint, archive):
    return ["--checkpoint", str(checkpoint), "--input", str(archive), "--workers", "0", "--chunk", "4"]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "answers.parquet"
    main([*flags, "--output", str(output)])
    return pq.read_table(output)


def test_each_image_has_the_row_that_a_single_prediction_gives(whole, checkpoint, archive):
    classifier = load_checkpoint(checkpoint)
    rows = whole.to_pylist()
    assert [row["file"] for row in rows] == sorted(
        file.relative_to(archive).as_posix() for file in archive.rglob("*.*")
    )
    for row in rows:
        if row["file"] in BROKEN:
            assert row["error"]
            assert row["label"] is None
        else:
            prediction = classifier.predict(archive / row["file"])
            assert (row["label"], row["error"]) == (prediction.label, None)
            for label, probability in prediction.probabilities.items():
                assert row[f"p_{label}"] == pytest.approx(probability, abs=1e-5)  # batches add up in another order
            assert row["warnings"] == [warning.code for warning in prediction.warnings]
    assert whole.schema.metadata[b"revision"].decode() == classifier.info.revision


def test_maps_are_stored_with_their_scale(flags, checkpoint, archive, tmp_path):
    output = tmp_path / "maps.parquet"
    main([*flags, "--maps", "grad_cam", "--output", str(output)])
    row = next(row for row in pq.read_table(output).to_pylist() if row["error"] is None)
    expected = explain(load_checkpoint(checkpoint), archive / row["file"], "grad_cam")
    stored = np.load(io.BytesIO(row["map"]))
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, expected.attribution, rtol=2e-3, atol=1e-4)  # half precision
    assert row["map_scale"] == expected.scale


def test_a_killed_job_goes_on_where_it_was(flags, whole, tmp_path):
    output = tmp_path / "answers.parquet"
    parts = output.with_name("answers.parquet.parts")
    command = [sys.executable, "-m", "training.score", *flags, "--output", str(output), "--maps", "occlusion"]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while process.poll() is None and len([*parts.glob("*.parquet")]) < 2:
        time.sleep(0.02)
    process.kill()
    process.wait()
    finished = {file: file.stat().st_mtime_ns for file in parts.glob("*.parquet")}
    assert 2 <= len(finished) < 6
    with pytest.raises(SystemExit, match="the beginning of another job"):
        main([*flags, "--output", str(output)])  # without the maps
    again = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    kept = {}
    while again.poll() is None:
        kept = {file: stamp for file in finished if (stamp := _stamp(file))} or kept
        time.sleep(0.02)
    assert again.returncode == 0
    assert kept == finished
    assert not parts.exists()
    columns = whole.column_names
    assert pq.read_table(output).select(columns).to_pylist() == whole.to_pylist()


def _stamp(file):
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def test_two_processes_share_the_work(flags, whole, tmp_path):
    output = tmp_path / "answers.parquet"
    done = run(on_two_processes(["-m", "training.score", *flags, "--output", str(output)]))
    assert done.returncode == 0, done.stderr[-2000:]
    assert pq.read_table(output).to_pylist() == whole.to_pylist()
    assert "3 files could not be read" in done.stdout
    assert "process 1:" in done.stdout


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    torch.manual_seed(1)
    preprocessing = Preprocessing((48, 48), (0.5,) * 3, (0.25,) * 3, frame=True)
    model = timm.create_model("test_resnet", num_classes=4)
    save_checkpoint(folder, model, label_names=LABELS, preprocessing=preprocessing, brain_xai={"temperature": 2.0})
    return folder


def test_several_checkpoints_answer_with_the_mean_of_their_calibrated_probabilities(
    flags, checkpoint, second, whole, archive, tmp_path
):
    output = tmp_path / "mean.parquet"
    main([*flags, "--checkpoint", str(checkpoint), str(second), "--output", str(output)])
    members = [load_checkpoint(checkpoint), load_checkpoint(second)]
    table = pq.read_table(output)
    assert table["file"] == whole["file"]
    for row in table.to_pylist():
        if row["error"] is None:
            answers = [member.predict(archive / row["file"]).probabilities for member in members]
            mean = {label: (answers[0][label] + answers[1][label]) / 2 for label in LABELS}
            assert {label: row[f"p_{label}"] for label in LABELS} == pytest.approx(mean, abs=1e-5)
            assert row["label"] == max(mean, key=mean.get)
    revisions = [member.info.revision for member in members]
    assert table.schema.metadata[b"revision"].decode() == "+".join(revisions)


def test_what_cannot_answer_together_is_refused(flags, checkpoint, second, tmp_path):
    output = ["--output", str(tmp_path / "refused.parquet")]
    with pytest.raises(SystemExit, match="A map shows what moved the score of one model"):
        main([*flags, "--checkpoint", str(checkpoint), str(second), "--maps", "grad_cam", *output])
    with pytest.raises(SystemExit, match="has other labels, or sees images otherwise"):
        main([*flags, "--checkpoint", str(checkpoint), "bundled/resnet18", *output])
