"""The results table: what it says, and that the README follows the checkpoints' files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.results import END, START, checkpoint_columns, insert_results, main, results_table, with_interval

INTERVAL = {"level": 0.95, "method": "percentile bootstrap by duplicate group", "samples": 1000, "seed": 0}


def scored(value, spread=0.01):
    return {"value": value, "low": value - spread, "high": value + spread}


def run_metrics(split="purged", seed=1, accuracy=0.965):
    test = {
        "accuracy": scored(accuracy),
        "macro_f1": scored(0.96),
        "recall": {"glioma": scored(0.9), "notumor": scored(0.98)},
        "tumour_miss_rate": scored(0.0204),
        "ece": scored(0.0125),
        "n": 1311,
        "groups": 985,
        "interval": INTERVAL,
    }
    return {"split": split, "seed": seed, "test": test}


@pytest.fixture
def checkpoints(tmp_path):
    """Two checkpoint folders, one of them with the official split beside the purged one."""
    contents = {
        "resnet18/metrics.json": run_metrics(),
        "resnet18/official.json": run_metrics("official", accuracy=0.99),
        "efficientnet_b0/metrics.json": run_metrics(accuracy=0.97),
    }
    for name, content in contents.items():
        file = tmp_path / "bundled" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return tmp_path / "bundled"


@pytest.fixture
def readme(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"# Title – with a dash\n\n{START}\nold\n{END}\n\nThe end.\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"value": 0.96534, "low": 0.95251, "high": 0.9766}, "0.965 [0.953, 0.977]"),
        ({"value": 0.5, "low": None, "high": None}, "0.500"),
        ({"value": None, "low": None, "high": None}, "–"),
        (None, "–"),
    ],
)
def test_a_value_is_written_with_its_interval(entry, text):
    assert with_interval(entry) == text


def test_the_table_word_for_word(checkpoints):
    columns = checkpoint_columns(checkpoints)
    assert results_table(columns, ["accuracy", "recall", "tumour_miss_rate"]) == (
        "| Test images | efficientnet_b0, purged split | resnet18, purged split | resnet18, official split |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| Accuracy | 0.970 [0.960, 0.980] | 0.965 [0.955, 0.975] | 0.990 [0.980, 1.000] |\n"
        "| Recall, glioma | 0.900 [0.890, 0.910] | 0.900 [0.890, 0.910] | 0.900 [0.890, 0.910] |\n"
        "| Recall, notumor | 0.980 [0.970, 0.990] | 0.980 [0.970, 0.990] | 0.980 [0.970, 0.990] |\n"
        "| Tumour miss rate | 0.020 [0.010, 0.030] | 0.020 [0.010, 0.030] | 0.020 [0.010, 0.030] |\n"
        "\n"
        "Value [low, high]: 95% interval, percentile bootstrap by duplicate group (1,000 samples). "
        "n = 1,311 test images in 985 duplicate groups, training seed 1."
    )


def test_the_footnote_tells_apart_columns_of_different_size_or_seed():
    columns = {"a": run_metrics(seed=1), "b": run_metrics(seed=1), "c": run_metrics(seed=2)}
    note = results_table(columns, ["accuracy"]).splitlines()[-1]
    size = "n = 1,311 test images in 985 duplicate groups, training seed"
    assert note.endswith(f"a and b: {size} 1; c: {size} 2.")


def test_no_miss_rate_row_where_no_checkpoint_has_one_and_a_dash_where_only_some_have():
    without = run_metrics()
    without["test"]["tumour_miss_rate"] = None
    assert "miss rate" not in results_table({"a": without}, ["tumour_miss_rate"])
    both = results_table({"a": without, "b": run_metrics()}, ["tumour_miss_rate"])
    assert "| Tumour miss rate | – | 0.020 [0.010, 0.030] |" in both


def test_classes_that_only_one_checkpoint_knows_get_a_row():
    other = run_metrics()
    other["test"]["recall"] = {"glioma": scored(0.5), "cyst": scored(0.7)}
    table = results_table({"a": run_metrics(), "b": other}, ["recall"])
    assert "| Recall, notumor | 0.980 [0.970, 0.990] | – |" in table
    assert "| Recall, cyst | – | 0.700 [0.690, 0.710] |" in table


def test_writing_changes_only_what_is_between_the_markers_and_can_be_repeated(readme, checkpoints):
    assert main([str(readme), "--checkpoints", str(checkpoints)]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"# Title – with a dash\n\n{START}\n| Test images |")
    assert text.endswith(f"training seed 1.\n{END}\n\nThe end.\n")
    assert "old" not in text
    for row in ("Accuracy", "Macro-F1", "Recall, glioma", "Recall, notumor", "Tumour miss rate", "ECE"):
        assert f"\n| {row} | " in text
    assert insert_results(text, checkpoints) == text


def test_check_passes_on_a_fresh_readme_and_fails_without_writing_on_a_stale_one(readme, checkpoints, capsys):
    before = readme.read_text(encoding="utf-8")
    check = [str(readme), "--check", "--checkpoints", str(checkpoints)]
    assert main(check) == 1
    assert readme.read_text(encoding="utf-8") == before
    assert "Run: python -m training.results" in capsys.readouterr().err
    main([str(readme), "--checkpoints", str(checkpoints)])
    assert main(check) == 0
    (checkpoints / "resnet18" / "metrics.json").write_text(json.dumps(run_metrics(accuracy=0.9)))
    assert main(check) == 1


@pytest.mark.parametrize("text", ["no markers", f"{START} only", f"{END} before {START}"])
def test_missing_markers_are_a_clear_error(readme, checkpoints, capsys, text):
    readme.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(readme), "--checkpoints", str(checkpoints)])
    assert stopped.value.code == 2
    assert START in capsys.readouterr().err
    assert readme.read_text() == text


def test_a_folder_without_metrics_is_a_clear_error(readme, tmp_path):
    with pytest.raises(ValueError, match=r"no metrics\.json"):
        checkpoint_columns(tmp_path)


def test_it_runs_as_a_command(readme, checkpoints):
    command = [sys.executable, "-m", "training.results", str(readme), "--check", "--checkpoints", str(checkpoints)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 1
    assert "out of date" in done.stderr
