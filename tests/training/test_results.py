"""The tables: what they say, and that the README follows the checkpoints' files."""

import json
import runpy
import sys

import pytest

from brain_xai import METHODS
from brain_xai.checkpoint.folder import weights_hash
from tests.helpers.measured import shortcuts
from training.report.elsewhere import away_rows, coverage_rows, group_rows
from training.report.tables import (
    explanations_table,
    maps_table,
    results_table,
    with_interval,
    with_small_interval,
)
from training.results import checkpoint_folders, insert_tables, main

RESULTS, MAPS = (tuple(f"<!-- {name}:{side} -->" for side in ("start", "end")) for name in ("results", "maps"))
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
    return {"split": split, "seed": seed, "test": test, "validation": {"macro_f1": scored(accuracy)}}


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
        (file.parent / "model.safetensors").write_bytes(file.parent.name.encode())
    return tmp_path / "bundled"


@pytest.fixture
def readme(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(
        f"# Title – with a dash\n\n{RESULTS[0]}\nold\n{RESULTS[1]}\n\n{MAPS[0]}\nolder\n{MAPS[1]}\n\nThe end.\n",
        encoding="utf-8",
    )
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


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.8466, 0.8066, 0.8833, "0.85 <sub>[0.81, 0.88]</sub>"),
        (0.005, -0.0319, -0.001, "0.01 <sub>[-0.03, 0.00]</sub>"),
        (9.47, 8.23, 10.98, "9.5 <sub>[8.2, 11]</sub>"),
        (22.91, 21.68, 24.38, "23 <sub>[22, 24]</sub>"),
        (None, None, None, "–"),
    ],
)
def test_a_short_value_has_two_digits(value, low, high, text):
    assert with_small_interval({"value": value, "low": low, "high": high}) == text


def test_the_worst_group_and_scans_from_other_sources_come_first():
    shares = {"test": 1311, "web T2 glioma or meningioma": 75, "web T1 glioma": 50, "web T1 notumor": 49}
    kinds = {name: {"tumor_or_not": scored(0.9) | {"n": n, "units": n}} for name, n in shares.items()}
    columns = {"new": run_metrics() | {"shortcuts": shortcuts(kinds)}, "old": run_metrics()}
    first = [*group_rows(columns), *away_rows(columns)]
    assert first == [
        ["Worst group", "0.654 [0.500, 0.875] (web, T1 notumor)", "–"],
        ["Mean of groups", "0.812 [0.800, 0.900]", "–"],
        ["Away: web, T2 tumor (n = 75)", "0.900 [0.890, 0.910]", "–"],
        ["Away: web, T1 glioma (n = 50)", "0.900 [0.890, 0.910]", "–"],
    ]
    last = coverage_rows(columns)
    assert last == [["Accuracy at 90% coverage", "0.876 [0.500, 0.875]", "–"]]
    lines = results_table(columns, ["accuracy"], first, last).splitlines()
    assert lines[2].startswith("| Worst group |")
    assert [line.split(" | ")[0] for line in lines[6:8]] == ["| Accuracy", "| Accuracy at 90% coverage"]
    for rows in (group_rows, away_rows, coverage_rows):
        assert rows({"old": run_metrics()}) == []


def test_the_table_word_for_word():
    columns = {
        "efficientnet_b0, purged split": run_metrics(accuracy=0.97),
        "resnet18, purged split": run_metrics(),
        "resnet18, official split": run_metrics("official", accuracy=0.99),
    }
    assert results_table(columns, ["accuracy", "recall", "tumor_miss_rate"]) == (
        "| Test images | efficientnet_b0, purged split | resnet18, purged split | resnet18, official split |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| Accuracy | 0.970 [0.960, 0.980] | 0.965 [0.955, 0.975] | 0.990 [0.980, 1.000] |\n"
        "| Recall, glioma | 0.900 [0.890, 0.910] | 0.900 [0.890, 0.910] | 0.900 [0.890, 0.910] |\n"
        "| Recall, notumor | 0.980 [0.970, 0.990] | 0.980 [0.970, 0.990] | 0.980 [0.970, 0.990] |\n"
        "| Tumor miss rate | 0.020 [0.010, 0.030] | 0.020 [0.010, 0.030] | 0.020 [0.010, 0.030] |\n"
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
    assert "| Tumor miss rate | – | 0.020 [0.010, 0.030] |" in both


def test_classes_that_only_one_checkpoint_knows_get_a_row():
    other = run_metrics()
    other["test"]["recall"] = {"glioma": scored(0.5), "cyst": scored(0.7)}
    table = results_table({"a": run_metrics(), "b": other}, ["recall"])
    assert "| Recall, notumor | 0.980 [0.970, 0.990] | – |" in table
    assert "| Recall, cyst | – | 0.700 [0.690, 0.710] |" in table


def test_writing_changes_only_what_is_between_the_markers_and_can_be_repeated(readme, checkpoints):
    assert main([str(readme), "--checkpoints", str(checkpoints)]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(
        f"# Title – with a dash\n\n{RESULTS[0]}\n"
        "| Test images | efficientnet_b0, purged split | resnet18, purged split | resnet18, official split |\n"
    ), "the best by validation comes first"
    assert f"training seed 1.\n{RESULTS[1]}\n\n{MAPS[0]}\n| method | key | " in text
    assert text.endswith(f"The maps of `efficientnet_b0` are not measured yet.\n{MAPS[1]}\n\nThe end.\n")
    assert "old" not in text
    for row in ("Accuracy", "Macro-F1", "Tumor miss rate", "ECE"):
        assert f"\n| {row} | " in text
    assert insert_tables(text, checkpoints) == text


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


@pytest.mark.parametrize("name", [RESULTS, MAPS])
@pytest.mark.parametrize("text", ["no markers", "{0} only", "{1} before {0}"])
def test_missing_markers_are_a_clear_error(readme, checkpoints, capsys, name, text):
    text = readme.read_text(encoding="utf-8").replace(name[0], "").replace(name[1], "") + text.format(*name)
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main([str(readme), "--checkpoints", str(checkpoints)])
    assert stopped.value.code == 2
    assert name[0] in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == text


def test_a_folder_without_metrics_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"no metrics\.json"):
        checkpoint_folders(tmp_path)


# It is imported already, which runpy points out.
@pytest.mark.filterwarnings("ignore:'training.results' found in sys.modules:RuntimeWarning")
def test_it_runs_as_a_command(readme, checkpoints, capsys, monkeypatch):
    arguments = [str(readme), "--check", "--checkpoints", str(checkpoints)]
    monkeypatch.setattr(sys, "argv", ["training/results.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("training.results", run_name="__main__")
    assert stopped.value.code == 1
    assert "out of date" in capsys.readouterr().err


# How good the maps are


def measured(pointing, srg, n=300):
    return {
        "pointing_game": scored(pointing) | {"n": n},
        "energy_lift": scored(5.0, 0.5) | {"n": n},
        "srg": scored(srg) | {"n": 25},
    }


def make_explanations(methods=("grad_cam",), revision="abc"):
    return {
        "checkpoint": {"name": "r18", "revision": revision, "architecture": "resnet18"},
        "split": "purged",
        "seed": 2,
        "target": "true",
        "baseline": "black",
        "image_size": [160, 160],
        "sets": {"test": {"n": 480}},
        "interval": INTERVAL,
        "methods": {method: measured(0.6, 0.3, 60 if method == "smooth_grad" else 300) for method in methods},
        "baselines": {
            "uniform": measured(0.02, 0.0),
            "center": measured(0.2, 0.1),
            "random_weights": measured(0.03, 0.01),
        },
    }


def test_the_cards_table_of_maps_word_for_word():
    table, caption = explanations_table(make_explanations(["grad_cam", "occlusion"])).split("\n\n")
    cells = "0.600 [0.590, 0.610], n = 300 | 5.000 [4.500, 5.500], n = 300 | 0.300 [0.290, 0.310], n = 25"
    lines = table.splitlines()
    assert lines[0] == "| Maps | pointing game | energy, times chance | SRG |"
    assert lines[2:4] == [f"| `grad_cam` | {cells} |", f"| `occlusion` | {cells} |"]
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| *uniform*", "| *center*", "| *random weights*"]
    assert caption.startswith("Value [low, high]: 95% interval, percentile bootstrap by duplicate group.")
    assert caption.endswith(
        "Purged split, 480 test images with a tumor box, seed 2, true class explained, 160 px, "
        "pixels replaced by black ones for SRG."
    )


def test_the_caption_says_what_the_measured_receptive_fields_change():
    compared = {"aligned": scored(0.8), "stretched": scored(0.5), "difference": scored(0.3) | {"n": 300}}
    explanations = make_explanations() | {"alignment": {"grad_cam": {"pointing_game": compared}}}
    assert explanations_table(explanations).endswith(
        "measured center of its receptive field 0.800 [0.790, 0.810]; feature map stretched over the image, as is "
        "usual 0.500 [0.490, 0.510]; difference 0.300 [0.290, 0.310], n = 300."
    )


def test_the_readmes_table_of_maps_has_every_method_and_chance_beneath():
    table, caption = maps_table("r18", make_explanations(["grad_cam", "saliency", "smooth_grad"])).split("\n\n")
    lines = table.splitlines()
    assert lines[0] == "| method | key | what it shows | cost | pointing game | energy, times chance | SRG |"
    assert lines[1] == "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    assert len(lines) == 2 + len(METHODS) + 2
    numbers = "0.60 <sub>[0.59, 0.61]</sub> | 5.0 <sub>[4.5, 5.5]</sub> | 0.30 <sub>[0.29, 0.31]</sub>"
    grad_cam = METHODS["grad_cam"]
    assert lines[2] == f"| [Grad-CAM]({grad_cam.paper}) | `grad_cam` | {grad_cam.summary} | 1 | {numbers} |"
    assert next(line for line in lines if "`occlusion`" in line).endswith("| 100 | – | – | – |"), "not measured"
    assert lines[-2].startswith("| *uniform* |")
    assert lines[-1].startswith("| *center* |")
    assert caption.startswith(
        "`r18`, purged split, seed 2: value [95% interval, percentile bootstrap by duplicate group] on test images "
        "with a tumor box, n = 300 (`smooth_grad`: 60); SRG: n = 25. Cost: forward passes per image."
    )
    assert "\n" not in caption


def test_the_readme_shows_the_maps_of_the_best_checkpoint_and_only_those_of_its_weights(readme, checkpoints):
    weights = checkpoints / "efficientnet_b0" / "model.safetensors"
    explanations = json.dumps(make_explanations(revision=weights_hash(weights)))
    for folder in weights.parent, checkpoints / "resnet18":
        (folder / "explanations.json").write_text(explanations)
    text = readme.read_text(encoding="utf-8")
    assert "`efficientnet_b0`, purged split, seed 2: value [95% interval" in insert_tables(text, checkpoints)
    weights.write_bytes(b"other weights")
    assert "The maps of `efficientnet_b0` are not measured yet." in insert_tables(text, checkpoints)
