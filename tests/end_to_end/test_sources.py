"""Training on several sources and measuring what was held out of them, as a maintainer runs it."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from brain_xai import load_checkpoint
from tests.helpers.scans import LABELS, make_scan, write_scans
from tests.helpers.training_runs import ENVIRONMENT, ROOT, command, launched, run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    write_scans(root / "main", train=16, test=4)
    with (root / "boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "x_min", "y_min", "x_max", "y_max"])
        rows.writerows([f"Training/glioma/glioma_{seed:03d}.png", 0.2, 0.25, 0.45, 0.5] for seed in range(16))
    for label, folder in (("pituitary", "yes"), ("notumor", "no")):
        (root / "web" / folder).mkdir(parents=True)
        for seed in range(300, 312):
            make_scan(label, seed).save(root / "web" / folder / f"P{seed}_T2.png")
    return root


@pytest.fixture(scope="module")
def source(folders):
    return f"{folders}/web:yes=tumor,no=notumor,hold=0.5"


@pytest.fixture(scope="module")
def trained(folders, source, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "away"
    more = ["--source", source, "--frame", "--styles", "1", "--counterfactuals", "1", "--boxes", f"{folders}/boxes.csv"]
    done = run(launched(command(folders / "main", output, *more)))
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout


def test_a_run_on_several_sources_records_them_and_validates_each(trained):
    folder, printed = trained
    assert "web: 6 train, 6 validation, 12 held out" in printed
    metrics = json.loads((folder / "metrics.json").read_text())
    kinds = {"web notumor", "web glioma|meningioma|pituitary"}
    for row in metrics["history"]:
        assert set(row["validation_kinds"]) == kinds
        assert row["validation_away"] == pytest.approx(np.mean(list(row["validation_kinds"].values())))
    # The main test set is the one that a run without other sources has.
    assert metrics["data"]["n"]["test"] == 4 * len(LABELS)
    assert "--source web:yes=tumor,no=notumor,hold=0.5" in metrics["command"]
    assert load_checkpoint(folder).preprocessing.frame
    scores = [row["validation_macro_f1"] + row["validation_away"] for row in metrics["history"]]
    assert metrics["training"]["best_epoch"] == int(np.argmax(scores)) + 1


def test_shortcuts_measures_the_held_out_scans_of_each_kind(trained, folders, source, tmp_path):
    folder, _ = trained
    arguments = ["--checkpoint", folder, "--data-dir", folders / "main", "--source", source]
    done = subprocess.run(
        [sys.executable, "-m", "training.shortcuts", *arguments, "--output", tmp_path / "shortcuts.json"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "shortcuts.json").read_text())
    assert set(result["kinds"]) == {"test", "web T2 notumor", "web T2 glioma or meningioma or pituitary"}
    assert result["checkpoint"]["revision"] == load_checkpoint(folder).info.revision
    metrics = json.loads((folder / "metrics.json").read_text())
    test = result["kinds"]["test"]
    assert test["class"]["value"] == pytest.approx(metrics["test"]["accuracy"]["value"])
    assert test["class"]["n"] == 16
    for kind in result["kinds"].values():
        assert kind["tumor_or_not"]["low"] <= kind["tumor_or_not"]["value"] <= kind["tumor_or_not"]["high"]
        assert all(0 <= change["value"] <= 1 for change in kind["changed_answers"].values())
    assert "class" not in result["kinds"]["web T2 glioma or meningioma or pituitary"]  # nobody knows it
    assert set(result["confidence"]) == {"test, class", "test", "web"}
    assert result["confidence"]["web"]["n"] == 12
    assert sum(look["class"]["n"] for look in result["clusters"].values()) == 16
    assert result["groups"] == {}, "no group has enough scans"
    for told in (*result["cues"]["file"].values(), *result["cues"]["view"].values(), *result["without_brain"].values()):
        assert 0 <= (told if isinstance(told, float) else told["value"]) <= 1
    assert "web T2 notumor" in done.stdout
    assert "shortcuts" not in json.loads((folder / "metrics.json").read_text()), "only the named file is written"
