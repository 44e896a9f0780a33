"""The training command as a maintainer runs it: real processes, synthetic scans, a model of a few thousand weights."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from brain_xai import METHODS, load_checkpoint
from tests.helpers.scans import LABELS, write_scans
from tests.helpers.training_runs import ENVIRONMENT, ROOT, command, launched, on_two_processes, run
from training.average import average
from training.compare import main as compare
from training.publishing.bundle import bundle


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("scans") / "data", train=20, test=5)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "whole"
    done = run(launched(command(data, output)))
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout


def test_the_folder_holds_a_checkpoint(trained):
    folder, printed = trained
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    examples = {"examples/cases.csv", *(f"examples/{label}.png" for label in LABELS)}
    figures = {f"figures/{name}.png" for name in ("curves", "confusion_matrix", "reliability", "maps")}
    assert files == {"config.json", "model.safetensors", "metrics.json", "README.md"} | examples | figures
    assert "waiting for data" in printed
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [row["size"] for row in metrics["history"]] == [32, 32, 48, 48]
    assert metrics["data"]["n"] == {"train": 60, "validation": 20, "test": 20}
    assert metrics["split"] == "purged"
    assert metrics["command"].startswith("accelerate launch training/train.py --output-dir whole --data-dir data")
    written = [(folder / name).read_text() for name in ("config.json", "metrics.json", "README.md")]
    assert not any(str(folder.parent.parent) in text for text in written)


def test_the_checkpoint_answers_as_measured(trained, data):
    """The numbers in metrics.json are those that the published folder gives on the test images."""
    folder, _ = trained
    classifier = load_checkpoint(folder)
    answers = [
        (label, classifier.predict(file).label)
        for label in LABELS
        for file in sorted((data / "Testing" / label).iterdir())
    ]
    accuracy = sum(label == answer for label, answer in answers) / len(answers)
    assert accuracy == pytest.approx(classifier.metrics["test"]["accuracy"]["value"])
    assert set(classifier.attribution_scale) == {
        key for key, method in METHODS.items() if method.reason_unsupported(classifier) is None
    }


def test_bundling_leaves_the_scans_behind(trained, tmp_path):
    folder, _ = trained
    bundle(folder, tmp_path / "bundled", official=folder)
    assert not (tmp_path / "bundled" / "examples").exists()
    assert not (tmp_path / "bundled" / "figures" / "maps.png").exists()
    assert (tmp_path / "bundled" / "official.json").is_file()
    assert load_checkpoint(tmp_path / "bundled").info.revision == load_checkpoint(folder).info.revision
    card = (tmp_path / "bundled" / "README.md").read_text()
    assert all((tmp_path / "bundled" / "figures" / name).is_file() for name in re.findall(r"figures/(\w+\.png)", card))


def test_checkpoints_are_compared_on_the_same_test_images(trained, data, tmp_path, capsys):
    folder, _ = trained
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    compare([str(folder), str(again), "--data-dir", str(data), "--output-dir", str(tmp_path / "out")])
    assert f"Difference from {folder.name}" in capsys.readouterr().out
    with (tmp_path / "out" / "comparison.csv").open(newline="", encoding="utf-8") as file:
        rows = {row[0]: row[1:] for row in csv.reader(file)}
    assert rows[""] == [folder.name, "again"]
    accuracy = load_checkpoint(folder).metrics["test"]["accuracy"]["value"]
    assert all(value.startswith(f"{accuracy:.3f} [") for value in rows["Accuracy"])
    assert all(float(value) > 0 for value in rows["Prediction, ms"])
    with Image.open(tmp_path / "out" / "comparison.png") as figure:
        assert figure.width > 1000
    other = str(write_scans(tmp_path / "other", train=4, test=2))
    with pytest.raises(SystemExit, match="not the images that the checkpoint was trained on"):
        compare([str(folder), str(again), "--data-dir", other, "--output-dir", str(tmp_path / "out")])


def kill_after(epochs, script, output):
    """Start a run and kill it as soon as it has saved the state of `epochs` epochs."""
    process = subprocess.Popen(
        [sys.executable, *script], cwd=ROOT, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (output / "state" / f"epoch-{epochs:04d}").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "model.safetensors").exists()


def test_a_run_starts_from_the_average_of_two(trained, data, tmp_path):
    folder, _ = trained
    averaged = tmp_path / "averaged"
    average([folder, folder], [1, 1], averaged)
    start = ("--init-weights", str(averaged / "model.safetensors"), "--sizes", "48:1", "--learning-rate", "1e-4")
    done = run(launched(command(data, tmp_path / "end", *start)))
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (json.loads((run / "metrics.json").read_text()) for run in (folder, tmp_path / "end"))
    assert [line.split()[2] for line in after["command"].splitlines()] == [
        *("training/train.py", "training/train.py", "training.average", "training/train.py")
    ]
    assert after["training"]["seconds"] > 2 * before["training"]["seconds"]
    assert str(tmp_path) not in json.dumps(after)


def test_killed_and_resumed_ends_with_the_same_weights(trained, data, tmp_path):
    """Killed in the first and in the last stage of image sizes."""
    whole, _ = trained
    output = tmp_path / "killed"
    tracked = ["--report-to", "tensorboard"]
    kill_after(1, command(data, output, *tracked), output)
    kill_after(3, command(data, output, *tracked, "--resume"), output)
    resumed = run([sys.executable, *command(data, output, *tracked, "--resume")])
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "Resuming after epoch 3" in resumed.stdout
    first, second = load_file(whole / "model.safetensors"), load_file(output / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (output / "state").exists()
    records = [json.loads((folder / "config.json").read_text())["brain_xai"] for folder in (whole, output)]
    assert records[0]["training"] == records[1]["training"]
    check_track(output, records[1]["tracking"])


def check_track(output, track):
    """The tracker holds one run with every epoch, its settings, results and figures, and names the checkpoint."""
    (folder,) = (output.parent / "tracking" / "tensorboard").iterdir()
    assert {"tracker": "tensorboard", "run": folder.name, "id": track["id"]} == track
    assert track["run"] in (output / "README.md").read_text()
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    logged = {event.step: event.value for event in events.Scalars("validation/accuracy")}
    metrics = json.loads((output / "metrics.json").read_text())
    assert logged == pytest.approx({row["epoch"]: row["validation_accuracy"] for row in metrics["history"]})
    assert events.Scalars("test/accuracy")[-1].value == pytest.approx(metrics["test"]["accuracy"]["value"])
    assert "figures/maps" in events.Tags()["images"]
    (name,) = (events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"])
    assert name == f"{output.name}@{load_checkpoint(output).info.revision}"
    (settings,) = folder.glob("*/hparams.yml")
    assert "learning_rate: 0.01" in settings.read_text()


@pytest.fixture(scope="module")
def two_processes(trained, data, tmp_path_factory):
    """The folder of a run on two processes with a teacher, boxes and accumulated gradients, and what it printed."""
    folder = tmp_path_factory.mktemp("two")
    rows = [f"Training/{label}/{label}_{seed:03d}.png,0.2,0.2,0.8,0.8" for label in LABELS for seed in range(20)]
    (folder / "boxes.csv").write_text("\n".join(["file,x_min,y_min,x_max,y_max", *rows]))
    more = ["--boxes", str(folder / "boxes.csv"), "--teacher", str(trained[0]), "--gradient-accumulation-steps", "2"]
    _, *arguments = command(data, folder / "run", *more)
    done = run(on_two_processes(["tests/helpers/two_processes.py", *arguments]))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


def test_two_processes_measure_the_same_split(two_processes, trained):
    """Splits do not depend on the number of processes, and every validation image counts once."""
    output, _ = two_processes
    metrics = json.loads((output / "metrics.json").read_text())
    alone = json.loads((trained[0] / "metrics.json").read_text())
    assert metrics["training"]["processes"] == 2
    assert metrics["data"] == alone["data"]
    # Counted over both processes during the run, and by one process at its end. The answers are the same; a float32
    # mean of 20 of them is exact to 1e-7.
    best = metrics["history"][metrics["training"]["best_epoch"] - 1]
    assert best["validation_macro_f1"] == pytest.approx(metrics["validation"]["macro_f1"]["value"], abs=1e-6)
    assert best["validation_accuracy"] == pytest.approx(metrics["validation"]["accuracy"]["value"], abs=1e-6)
    recorded = json.loads((output / "config.json").read_text())["brain_xai"]["training"]
    assert (recorded["boxes"], recorded["teacher"]) == ("boxes.csv", "whole")


def test_two_processes_share_their_batch_norm_statistics(two_processes):
    """Each process trains on other images, and yet both validate the same model; too few batches are refused."""
    found = json.loads(next(line for line in two_processes[1].splitlines() if line.startswith("{")))
    assert found["apart_before"] > 0.01  # the processes did see other images
    # Both hold the same sum, rounded once.
    assert found["apart_after"] <= 1e-6
    assert found["refusal"] == (
        "60 training images make 1 batches of 40, too few for 2 processes. "
        "Use a --batch-size of at most 30, or fewer processes."
    )
