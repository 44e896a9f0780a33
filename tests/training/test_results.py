"""The results table: what it says, and that the README follows the checkpoints' files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from brain_xai.methods import METHODS
from training.results import (
    END,
    EXPLANATIONS_END,
    EXPLANATIONS_START,
    START,
    checkpoint_columns,
    explanation_columns,
    explanations_table,
    file_hash,
    insert_results,
    main,
    methods_table,
    results_table,
    with_interval,
)

INTERVAL = {"level": 0.95, "method": "percentile bootstrap by duplicate group", "samples": 1000, "seed": 0}


def scored(value, spread=0.01):
    return {"value": value, "low": value - spread, "high": value + spread}


def run_metrics(split="purged", seed=1, accuracy=0.965):
    test = {
        "accuracy": scored(accuracy),
        "macro_f1": scored(0.96),
        "recall": {"glioma": scored(0.9), "notumor": scored(0.98)},
        "tumor_miss_rate": scored(0.0204),
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
    assert results_table(columns, ["accuracy", "recall", "tumor_miss_rate"]) == (
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
    without["test"]["tumor_miss_rate"] = None
    assert "miss rate" not in results_table({"a": without}, ["tumor_miss_rate"])
    both = results_table({"a": without, "b": run_metrics()}, ["tumor_miss_rate"])
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
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 1
    assert "out of date" in done.stderr


# How good the maps are


def found(pointing, srg, n=300):
    return {
        "pointing_game": scored(pointing) | {"n": n},
        "energy_lift": scored(5.0) | {"n": n},
        "srg": scored(srg) | {"n": 25},
    }


def explanations(revision="abc", methods=("grad_cam",)):
    return {
        "checkpoint": {"name": "r18", "revision": revision, "architecture": "resnet18"},
        "split": "purged",
        "seed": 2,
        "target": "true",
        "baseline": "black",
        "picture_size": [160, 160],
        "sets": {"test": {"n": 480}},
        "interval": INTERVAL,
        "methods": {method: found(0.6, 0.3) for method in methods},
        "baselines": {"uniform": found(0.02, 0.0), "random_weights": found(0.03, 0.01)},
    }


@pytest.fixture
def measured(checkpoints):
    """The same checkpoints, one of them with measured maps."""
    weights = checkpoints / "resnet18" / "model.safetensors"
    weights.write_bytes(b"weights")
    (checkpoints / "resnet18" / "explanations.json").write_text(json.dumps(explanations(file_hash(weights))))
    return checkpoints


def test_the_table_of_maps_word_for_word():
    columns = {"a": explanations(methods=["grad_cam", "occlusion"]), "b": explanations()}
    table, note = explanations_table(columns).split("\n\n")
    cells = "0.600 [0.590, 0.610], n = 300 | 5.000 [4.990, 5.010], n = 300 | 0.300 [0.290, 0.310], n = 25"
    assert table.splitlines()[0] == (
        "| Maps | a: pointing game | a: energy, times chance | a: SRG "
        "| b: pointing game | b: energy, times chance | b: SRG |"
    )
    assert table.splitlines()[2] == f"| `grad_cam` | {cells} | {cells} |"
    assert table.splitlines()[3] == f"| `occlusion` | {cells} | – | – | – |"
    assert [line.split(" | ")[0] for line in table.splitlines()[4:]] == ["| *uniform*", "| *random weights*"]
    assert (
        "b: purged split, 480 test pictures with a box to draw from, seed 2, true class explained, 160 px, "
        "pixels replaced by black ones for SRG, 95% interval (percentile bootstrap by duplicate group)." in note
    )


def test_the_note_says_what_laying_cells_where_they_are_changes():
    compared = {"aligned": scored(0.8), "stretched": scored(0.5), "difference": scored(0.3) | {"n": 300}}
    column = explanations() | {"alignment": {"grad_cam": {"pointing_game": compared}}}
    assert (
        "a, Grad-CAM laid at the measured place of its cells: pointing game 0.800 [0.790, 0.810]; stretched over the "
        "picture, as is usual: 0.500 [0.490, 0.510]; difference 0.300 [0.290, 0.310], n = 300."
    ) in explanations_table({"a": column})


def test_a_readme_gets_both_tables(readme, measured):
    text = readme.read_text(encoding="utf-8") + f"\n{EXPLANATIONS_START}\nolder\n{EXPLANATIONS_END}\nReally.\n"
    written = insert_results(text, measured)
    assert "| Test images |" in written
    assert f"{EXPLANATIONS_START}\n| Maps | resnet18: pointing game |" in written
    assert written.endswith(f"{EXPLANATIONS_END}\nReally.\n")
    assert "older" not in written
    assert insert_results(written, measured) == written


def test_numbers_of_other_weights_are_left_out(readme, measured):
    assert list(explanation_columns(measured)) == ["resnet18"]
    (measured / "resnet18" / "model.safetensors").write_bytes(b"other weights")
    assert explanation_columns(measured) == {}
    text = readme.read_text(encoding="utf-8") + f"{EXPLANATIONS_START}\n{EXPLANATIONS_END}\n"
    assert "No checkpoint's maps are measured yet." in insert_results(text, measured)


def test_markers_for_maps_are_needed_once_there_are_numbers(readme, measured, capsys):
    with pytest.raises(SystemExit):
        main([str(readme), "--checkpoints", str(measured)])
    assert EXPLANATIONS_START in capsys.readouterr().err


def test_the_readme_lists_every_method():
    table = methods_table().splitlines()
    assert len(table) == 2 + len(METHODS)
    assert table[2].startswith("| Grad-CAM | `grad_cam` | ")
    assert METHODS["occlusion"].paper in next(line for line in table if "`occlusion`" in line)
