"""The training command as a maintainer runs it: real processes, made-up scans, a model of a few thousand weights."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brain_xai import METHODS, load_checkpoint
from tests.helpers.scans import LABELS, write_scans
from training.publishing.bundle import bundle

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
LOOPBACK = ["--standalone", "--local-addr", "127.0.0.1"]
SETTINGS = shlex.split(
    "--model test_resnet --no-pretrained --sizes 32:2,48:2 --batch-size 8 --learning-rate 0.01 --augmentation 0.3 "
    "--ema-decay 0.9 --validation-fraction 0.25 --seed 1"
)


def command(data, output, *more):
    script = ["training/train.py", "--data-dir", str(data), "--output-dir", str(output), *SETTINGS, *more]
    return [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", *script]


def run(data, output, *more):
    return subprocess.run(
        command(data, output, *more),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("scans") / "data", train=20, test=5)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "whole"
    done = run(data, output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout


def test_the_folder_holds_a_checkpoint(trained):
    folder, printed = trained
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    examples = {f"examples/{label}.png" for label in LABELS}
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
    """The numbers in metrics.json are those that the published folder gives on the test pictures."""
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


def test_a_finished_run_is_not_run_again(trained, data):
    folder, _ = trained
    before = (folder / "model.safetensors").stat().st_mtime_ns
    done = run(data, folder, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "is finished" in done.stdout
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_bundling_leaves_the_scans_behind(trained, tmp_path):
    folder, _ = trained
    bundle(folder, tmp_path / "bundled", official=folder)
    assert not (tmp_path / "bundled" / "examples").exists()
    assert not (tmp_path / "bundled" / "figures" / "maps.png").exists()
    assert (tmp_path / "bundled" / "official.json").is_file()
    assert load_checkpoint(tmp_path / "bundled").info.revision == load_checkpoint(folder).info.revision
    card = (tmp_path / "bundled" / "README.md").read_text()
    assert all((tmp_path / "bundled" / "figures" / name).is_file() for name in re.findall(r"figures/(\w+\.png)", card))


@pytest.mark.parametrize("epochs", [1, 3])
def test_killed_and_resumed_ends_with_the_same_weights(trained, data, tmp_path, epochs):
    whole, _ = trained
    output = tmp_path / "killed"
    process = subprocess.Popen(
        command(data, output), cwd=ROOT, env=ENVIRONMENT, start_new_session=True,
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
    resumed = run(data, output, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "Going on after epoch" in resumed.stdout
    first, second = load_file(whole / "model.safetensors"), load_file(output / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_measure_the_same_split(trained, data, tmp_path):
    """Splits do not depend on the number of processes, and every validation picture counts once."""
    output = tmp_path / "two"
    script = ["training/train.py", "--data-dir", str(data), "--output-dir", str(output), *SETTINGS]
    two = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *LOOPBACK, *script],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    metrics = json.loads((output / "metrics.json").read_text())
    alone = json.loads((trained[0] / "metrics.json").read_text())
    assert metrics["training"]["processes"] == 2
    assert metrics["data"] == alone["data"]
    # Counted over both processes during the run, and by one process at its end.
    best = metrics["history"][metrics["training"]["best_epoch"] - 1]
    assert best["validation_macro_f1"] == pytest.approx(metrics["validation"]["macro_f1"]["value"], abs=1e-6)
    assert best["validation_accuracy"] == pytest.approx(metrics["validation"]["accuracy"]["value"], abs=1e-6)


def test_init_weights_and_teacher(trained, data, tmp_path):
    """What fits is loaded and the rest is named; a teacher of another split is refused."""
    folder, _ = trained
    weights = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    save_file(weights | {"extra": torch.zeros(2)}, tmp_path / "start.safetensors")
    start = ["--init-weights", str(tmp_path / "start.safetensors"), "--teacher", str(folder), "--sizes", "48:1"]
    done = run(data, tmp_path / "pupil", *start)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "random: fc.weight, fc.bias; not used: extra" in done.stdout
    refused = run(data, tmp_path / "other", *start, "--split", "official", "--validation-fraction", "0.2")
    assert refused.returncode != 0
    assert "another split" in refused.stderr


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--sizes", "48:1,32:1"], "sizes must not shrink"),
        (["--model", "resnet_from_mars"], "resnet_from_mars"),
        (["--init-weights", "missing.safetensors"], "There is no file"),
        (["--pretrained"], "--no-pretrained"),
    ],
)
def test_wrong_settings_say_what_to_do(data, tmp_path, more, says):
    arguments = [part for part in SETTINGS if not (more == ["--pretrained"] and part == "--no-pretrained")]
    script = ["training/train.py", "--data-dir", str(data), "--output-dir", str(tmp_path / "run"), *arguments, *more]
    done = subprocess.run([sys.executable, *script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode != 0
    assert says in done.stderr.splitlines()[-1]
