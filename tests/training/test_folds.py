"""Cross-validation: one run per fold in processes of its own, and what is made of their answers."""

import csv
import json

import numpy as np
import pytest

from tests.helpers.scans import LABELS, write_scans
from tests.helpers.training_runs import SETTINGS
from training.evaluation.answers import TestAnswers
from training.folds import main, summarize, summary_table


def answers(right, wrong):
    """Answers of one fold for two classes; all wrong ones are misses of class 1."""
    labels = np.array([0] * right + [1] * (right + wrong))
    said = np.array([0] * right + [1] * right + [0] * wrong)
    probabilities = np.where(said[:, None] == np.arange(2), 0.9, 0.1)
    files = [f"{i}.png" for i in range(len(labels))]
    return TestAnswers(probabilities, labels, np.arange(len(labels)), files, ("no", "yes"), 0)


def test_the_summary_by_hand():
    """Fold 1: 8 of 10 right, 2 of 6 tumors missed; fold 2: 10 of 10."""
    result = summarize([answers(4, 2), answers(5, 0)])
    assert result["pooled"]["n"] == 20
    assert result["pooled"]["accuracy"]["value"] == pytest.approx(18 / 20)
    assert result["pooled"]["tumor_miss_rate"]["value"] == pytest.approx(2 / 11)
    accuracy = result["folds"]["Accuracy"]
    assert accuracy["values"] == [0.8, 1.0]
    assert accuracy["mean"] == pytest.approx(0.9)
    assert accuracy["sd"] == pytest.approx(0.02**0.5)  # (0.1² + 0.1²) / (2 - 1)
    assert "0.900 ± 0.141" in summary_table(result)


def test_every_image_is_answered_by_the_fold_that_did_not_train_on_it(tmp_path, monkeypatch):
    data = write_scans(tmp_path / "data", train=8, test=2)
    output = tmp_path / "folds"
    flags = [*SETTINGS, "--mixed-precision", "no", "--sizes", "32:1"]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    main(["--folds", "2", "--output-dir", str(output), "--data-dir", str(data), *flags])
    with (output / "answers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["file"] for row in rows}) == 40
    assert all(sum(float(row[label]) for label in LABELS) == pytest.approx(1, abs=1e-5) for row in rows)
    pooled = json.loads((output / "folds.json").read_text())["pooled"]
    right = np.mean([max(LABELS, key=lambda label: float(row[label])) == row["label"] for row in rows])
    assert pooled["accuracy"]["value"] == pytest.approx(right)
    for fold in (1, 2):
        metrics = json.loads((output / f"fold-{fold}" / "metrics.json").read_text())
        assert metrics["split"] == f"fold:{fold}/2"
        assert metrics["test"]["n"] == sum(row["fold"] == str(fold) for row in rows)


def test_a_fold_that_fails_ends_with_one_sentence(tmp_path, capfd):
    with pytest.raises(SystemExit, match="Fold 1 failed"):
        main(["--output-dir", str(tmp_path / "folds"), "--data-dir", str(tmp_path / "nowhere")])
    assert "There is no folder" in capfd.readouterr().err
