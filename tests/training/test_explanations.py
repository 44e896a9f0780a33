"""Measuring maps: only held-out images, marks at known positions, and numbers that follow the weights."""

import contextlib
import csv
import io
import itertools
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from brain_xai import METHODS, explain, frame, load_checkpoint
from brain_xai.checkpoint.catalog import BUNDLED
from brain_xai.checkpoint.folder import save_checkpoint, weights_hash
from brain_xai.checkpoint.schema import WEIGHTS_NAME
from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.methods.cam import resample_to_image
from brain_xai.methods.target_layer import TargetLayer, target_layer
from brain_xai.preprocess import Preprocessing
from tests.helpers.boxed import SETTINGS, SIDE, box_of
from tests.helpers.nets import PLAIN
from tests.helpers.scans import LABELS, MARKS, make_scan
from training.data.duplicate_groups import duplicate_groups
from training.data.sources import DataError, load_scans
from training.data.splits import split_scans
from training.evaluation.held_out import BoxedScans, held_out_scans
from training.evaluation.map_quality import (
    Benchmark,
    Candidate,
    gain_over_chance,
    measure_all,
    measure_faithfulness,
    normalize_weights,
    stretch,
    summarize,
)
from training.evaluation.maps_elsewhere import boxed_elsewhere, measure_elsewhere
from training.evaluation.metrics import Bootstrap, ratio_with_interval
from training.evaluation.unseen import Part, Unseen
from training.explanations import (
    MapSettings,
    build_benchmark,
    choose_methods,
    main,
    measure_explanations,
    save_explanations,
)
from training.publishing.bundle import bundle


@pytest.fixture(scope="module")
def data(boxed_data):
    return boxed_data


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint


@pytest.fixture(scope="module")
def measured(checkpoint, data, tmp_path_factory):
    """The folder after the command has run on it, what it printed and what it wrote."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("measured") / "tiny")
    arguments = ["--checkpoint", folder, "--data-dir", data, "--boxes", data / "boxes.csv", "--limit", 6]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([*map(str, arguments), "--methods", "grad_cam", "occlusion"])
    return folder, printed.getvalue(), json.loads((folder / "explanations.json").read_text())


def settings(folder, data, **changed):
    return MapSettings(str(folder), str(data), str(data / "boxes.csv"), ["grad_cam"], **{"limit": 6} | changed)


# Which images


def test_only_images_that_were_never_trained_on(checkpoint, data):
    classifier = load_checkpoint(checkpoint)
    sets = held_out_scans(classifier, SETTINGS, str(data), str(data / "boxes.csv"), seed=1)
    scans = load_scans(data_dir=str(data), size=SIDE)
    groups = duplicate_groups(scans.thumbnails)
    splits = split_scans(scans, groups, "purged", seed=3, **SETTINGS)
    by_file = dict(zip(scans.files, groups.tolist(), strict=True))
    validation = {scans.files[i] for i in splits.validation}
    assert set(sets["validation"].files) == {file for file in validation if "notumor" not in file}
    # Three test images of each tumor class have copies in Training: one of each pair of copies is held out.
    assert len(sets["test"]) == 9
    assert all("copy" in file or "mirrored" in file for file in sets["test"].files)
    assert len({by_file[file] for file in sets["test"].files}) == 9
    seen = set(groups[splits.train].tolist())
    for part in sets.values():
        assert not seen & set(part.groups.tolist())
        assert part.pixels.shape == (len(part), SIDE, SIDE)
        for i, file in enumerate(part.files):
            assert by_file[file] == part.groups[i]
            label = Path(file).parent.name
            assert LABELS[part.labels[i]] == label
            assert part.boxes[i] == pytest.approx(box_of(label, "mirrored" in file))
    assert not set(sets["test"].groups.tolist()) & set(sets["validation"].groups.tolist())


def test_the_marks_are_inside_the_boxes(checkpoint, data):
    """The box of a mirrored image is mirrored, too: the brightest pixels are inside."""
    scans = held_out_scans(load_checkpoint(checkpoint), SETTINGS, str(data), str(data / "boxes.csv"))["test"]
    assert {"mirrored" in file for file in scans.files} == {True, False}
    for pixels, (x_min, y_min, x_max, y_max) in zip(scans.pixels, scans.boxes * SIDE, strict=True):
        rows, columns = np.nonzero(pixels > 235)
        assert (rows >= y_min).all()
        assert (rows < y_max).all()
        assert (columns >= x_min).all()
        assert (columns < x_max).all()


def test_the_order_of_the_images_depends_only_on_the_seed(checkpoint, data):
    classifier = load_checkpoint(checkpoint)
    orders = [
        held_out_scans(classifier, SETTINGS, str(data), str(data / "boxes.csv"), seed)["test"].files
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_framed_images_are_not_framed_again(checkpoint, data, tmp_path):
    """The model sees exactly the pixels that the boxes belong to."""
    folder = shutil.copytree(checkpoint, tmp_path / "framed")
    plain = load_checkpoint(checkpoint)
    save_checkpoint(
        folder,
        timm.create_model("test_resnet", num_classes=len(LABELS)),
        label_names=LABELS,
        preprocessing=replace(plain.preprocessing, frame=True),
        brain_xai={"training": SETTINGS},
    )
    classifier = load_checkpoint(folder)
    assert classifier.preprocessing.frame
    benchmark = build_benchmark(settings(folder, data), classifier)
    scans = benchmark.sets["test"]
    for pixels in scans.pixels:
        assert np.array_equal(np.asarray(benchmark.classifier.prepare(pixels).view)[..., 0], pixels)
    assert any((np.asarray(classifier.prepare(pixels).view)[..., 0] != pixels).any() for pixels in scans.pixels)
    for pixels, (x_min, y_min, x_max, y_max) in zip(scans.pixels, scans.boxes * SIDE, strict=True):
        rows, columns = np.nonzero(pixels == pixels.max())
        assert y_min <= rows.mean() <= y_max
        assert x_min <= columns.mean() <= x_max


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"split": "official"}, "the split came out as"),
        ({"split": "purgd"}, "purgd"),
        ({"split": None}, "does not record its split"),
        ({"seed": None}, "does not record its split"),
        ({"data": {"fingerprint": "other", "n": {}}}, "not the images"),
        ({"data": None}, "does not record its split"),
    ],
)
def test_images_that_may_have_been_trained_on_are_refused(checkpoint, data, changed, message):
    classifier = load_checkpoint(checkpoint)
    metrics = {key: value for key, value in (classifier.metrics | changed).items() if value is not None}
    with pytest.raises(DataError, match=f"(?i){message}"):
        held_out_scans(replace(classifier, metrics=metrics), SETTINGS, str(data), str(data / "boxes.csv"))


def test_the_official_split_leaves_no_image(checkpoint, data):
    classifier = load_checkpoint(checkpoint)
    scans = load_scans(data_dir=str(data), size=SIDE)
    splits = split_scans(scans, duplicate_groups(scans.thumbnails), "official", seed=3, **SETTINGS)
    sizes = {name: len(indices) for name, indices in vars(splits).items()}
    metrics = classifier.metrics | {"split": "official", "data": classifier.metrics["data"] | {"n": sizes}}
    with pytest.raises(DataError, match="trained on all of them"):
        held_out_scans(replace(classifier, metrics=metrics), SETTINGS, str(data), str(data / "boxes.csv"))


# The command


def test_the_command_writes_numbers_with_n_and_interval(measured):
    folder, printed, content = measured
    assert content["checkpoint"]["revision"] == load_checkpoint(folder).info.revision
    assert content["sets"]["test"] == {"n": 9, "classes": {"glioma": 3, "meningioma": 3, "notumor": 0, "pituitary": 3}}
    assert set(content["methods"]) == {"grad_cam", "occlusion"}
    assert set(content["baselines"]) == {"uniform", "center", "edges", "random_weights"}
    for found in [*content["methods"].values(), *content["baselines"].values()]:
        for measure in ("pointing_game", "pointing_game_15", "energy_in_box", "rank_accuracy", "box_accuracy", "srg"):
            entry = found[measure]
            assert entry["low"] <= entry["value"] <= entry["high"], measure
            assert entry["n"] == 6
        assert found["pointing_game"]["value"] <= found["pointing_game_15"]["value"]
        assert found["srg"]["value"] == pytest.approx(found["insertion"]["value"] - found["deletion"]["value"])
    for method, found in content["methods"].items():
        assert found["forward_passes"] == METHODS[method].forward_passes
        # 1 would be the same map, as if the weights had not been randomized.
        assert found["randomized"]["value"] < 0.9
        assert found["randomized_half"]["value"] < 0.99
        assert found["max_sensitivity"]["n"] == found["randomized"]["n"] == found["randomized_half"]["n"] == 6
    assert sum(content["consensus_weights"].values()) == pytest.approx(1)
    assert "`grad_cam`" in printed
    assert "*random weights*" in printed
    assert "n = 6" in printed


def test_a_uniform_map_scores_chance(measured):
    uniform = measured[2]["baselines"]["uniform"]
    share = (17 / SIDE) ** 2
    for measure in ("pointing_game", "energy_in_box", "rank_accuracy"):
        assert uniform[measure] == pytest.approx({"value": share, "low": share, "high": share, "n": 6})
    assert uniform["energy_lift"]["value"] == pytest.approx(1)


def test_every_number_appears_by_class_size_and_answer(measured):
    content = measured[2]
    assert set(content["by_class"]) == {"glioma", "meningioma", "pituitary"}
    assert set(content["by_size"]) == {"small", "medium", "large"}
    assert set(content["by_answer"]) == {"right", "wrong"}
    for kind in ("by_class", "by_answer"):
        parts = [part["grad_cam"]["pointing_game"] for part in content[kind].values() if part]
        assert sum(part["n"] for part in parts) == 6
        mean = sum(part["n"] * part["value"] for part in parts) / 6
        assert mean == pytest.approx(content["methods"]["grad_cam"]["pointing_game"]["value"])


def test_the_comparison_with_stretched_maps_is_paired(measured):
    alignment = measured[2]["alignment"]
    assert set(alignment) == {"grad_cam"}, "occlusion reads no feature map"
    for measure, found in alignment["grad_cam"].items():
        assert found.get("aligned") == measured[2]["methods"]["grad_cam"].get(measure)
        if measure in ("pointing_game", "energy_in_box"):
            difference = found["aligned"]["value"] - found["stretched"]["value"]
            assert found["difference"]["value"] == pytest.approx(difference)


def test_the_figure_is_written_beside_the_numbers(measured):
    folder = measured[0]
    with Image.open(folder / "figures" / "explanations.png") as figure:
        assert figure.format == "PNG"
        assert figure.width > 1000


def test_a_loaded_checkpoint_has_the_numbers_until_its_weights_change(measured, tmp_path):
    folder = shutil.copytree(measured[0], tmp_path / "copy")
    assert load_checkpoint(folder).explanations == measured[2]
    weights = load_file(folder / "model.safetensors")
    weights["fc.bias"] = weights["fc.bias"] + 1
    save_file(weights, folder / "model.safetensors")
    assert load_checkpoint(folder).explanations == {}


def test_a_checkpoint_without_numbers_has_none(checkpoint):
    assert load_checkpoint(checkpoint).explanations == {}


def test_the_same_seed_gives_the_same_numbers(measured, data):
    explanations = measure_explanations(settings(measured[0], data))
    first, again = measured[2]["methods"]["grad_cam"], explanations["methods"]["grad_cam"]
    assert again.keys() == first.keys()
    # Not bit by bit: how many threads there are decides in which order a convolution adds up.
    for measure, entry in first.items():
        assert again[measure] == pytest.approx(entry, abs=1e-4), measure
    assert explanations["consensus_weights"] == {"grad_cam": 1}


def test_the_predicted_class_can_be_explained_instead(measured, data):
    explanations = measure_explanations(settings(measured[0], data, target="predicted"))
    assert explanations["target"] == "predicted"
    wrong, other_wrong = (numbers["by_answer"]["wrong"]["grad_cam"] for numbers in (explanations, measured[2]))
    difference = wrong["energy_in_box"]["value"] - other_wrong["energy_in_box"]["value"]
    assert abs(difference) > 1e-3, "another class, another map"
    for part in explanations["by_answer"]["right"], measured[2]["by_answer"]["right"]:
        for measure, entry in part.get("grad_cam", {}).items():
            expected = explanations["by_answer"]["right"]["grad_cam"][measure]
            assert entry == pytest.approx(expected, abs=1e-4), measure


def test_the_recorded_command_repeats_the_settings_without_local_paths(measured):
    recorded = measured[2]["command"]
    assert recorded.startswith("python -m training.explanations --checkpoint tiny --data-dir data")
    assert recorded.endswith(" --boxes boxes.csv --methods grad_cam occlusion --limit 6")
    assert "/" not in recorded
    bundled = MapSettings("bundled/resnet18", "/home/jane/scans", "/home/jane/scans/boxes.csv", target="predicted")
    assert bundled.command() == (
        "python -m training.explanations --checkpoint bundled/resnet18 --data-dir scans --boxes boxes.csv "
        "--target predicted"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--methods", "grad_cam", "tea_leaves"], "There is no method tea_leaves. There are: grad_cam"),
        (["--source", "web"], "First measure the maps with the boxes of the main data"),
        (["--checkpoint", "nowhere/model"], "nowhere/model is neither a bundled checkpoint nor a folder"),
        (["--checkpoint", "bundled/nothing"], "There is no bundled/nothing"),
        (["--boxes", "nowhere.csv"], "nowhere.csv"),
        (["--data-dir", "nowhere"], "There is no folder"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_wrong_settings_are_named_in_the_error(checkpoint, data, change, message, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--data-dir", str(data), "--boxes", str(data / "boxes.csv")]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, *change])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (checkpoint / "explanations.json").exists()


# The numbers follow the model


class Brightest(nn.Module):
    """The logit of every tumor class is the mean brightness above 0.9; that of "notumor" is 0."""

    def __init__(self):
        super().__init__()
        self.num_features = 1
        self.bright = nn.Conv2d(3, 1, 1)
        self.head = nn.Linear(1, 4, bias=False)
        self.bright.weight.data = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        self.bright.bias.data = torch.tensor([-0.9])
        self.head.weight.data = 500 * torch.tensor([[1.0], [1.0], [0.0], [1.0]])

    def forward_features(self, pixel_values):
        return nn.functional.relu(self.bright(pixel_values))

    def forward(self, pixel_values):
        return self.head(self.forward_features(pixel_values).mean(dim=(2, 3)))


def brightest_classifier(threshold=0.9):
    model = Brightest().eval().requires_grad_(False)
    model.bright.bias.fill_(-threshold)
    return Classifier(model, LABELS, Preprocessing((SIDE, SIDE), **PLAIN), CheckpointInfo("test", "0", "Brightest"))


def boxed_scans(label, seeds):
    pixels = np.stack([np.asarray(make_scan(label, seed)) for seed in seeds])
    count = len(pixels)
    labels = np.full(count, LABELS.index(label))
    return BoxedScans(pixels, np.array([box_of(label)] * count), labels, np.arange(count), [""] * count)


def test_the_maps_of_a_model_that_reads_the_mark_beat_every_baseline():
    classifier = brightest_classifier()
    sets = {"validation": boxed_scans("meningioma", range(4)), "test": boxed_scans("meningioma", range(4, 12))}
    targets = {name: scans.labels for name, scans in sets.items()}
    benchmark = Benchmark(classifier, sets, targets, limit=8, seed=0)
    found = measure_all(benchmark, ["occlusion"], targets["test"])
    occlusion = found["methods"]["occlusion"]
    assert occlusion["pointing_game"]["value"] == 1
    assert occlusion["energy_lift"]["value"] > 4
    assert abs(occlusion["peak_down"]["value"]) < 4
    assert abs(occlusion["peak_right"]["value"]) < 4
    for name in ("uniform", "center", "edges"):
        for measure in ("pointing_game", "energy_in_box", "rank_accuracy", "srg", "insertion"):
            assert occlusion[measure]["value"] > found["baselines"][name][measure]["value"], (name, measure)
    assert found["consensus_weights"] == {"occlusion": 1}
    assert set(found["by_answer"]["wrong"]) == set()
    assert found["by_answer"]["right"]["occlusion"]["pointing_game"]["n"] == 8


@pytest.fixture
def elsewhere(tmp_path):
    """Scans held out of "web": gliomas and tumors of unknown kind with boxes, healthy ones; two of each patient."""
    rows, kinds = [], {}
    for kind, label, allowed in (
        ("web T1 glioma", "glioma", [1, 0, 0, 0]),
        ("web T2 tumor", "pituitary", [1, 1, 0, 1]),
        ("web T1 notumor", "notumor", [0, 0, 1, 0]),
    ):
        (tmp_path / "web" / label).mkdir(parents=True)
        files = [tmp_path / "web" / label / f"{seed}_T1.png" for seed in range(6)]
        for seed, file in enumerate(files):
            make_scan(label, seed).save(file)
            if label in MARKS:
                rows.append([f"{label}/{file.name}", *box_of(label)])
        pixels = np.stack([np.asarray(make_scan(label, seed)) for seed in range(6)])
        kinds[kind] = Part(pixels, np.array([allowed] * 6, dtype=bool), np.arange(6) // 2, files)
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "x_min", "y_min", "x_max", "y_max"), *rows])
    folders = dict.fromkeys(kinds, tmp_path / "web")
    return Unseen(None, None, None, kinds, folders, LABELS.index("notumor")), str(tmp_path / "boxes.csv")


def test_maps_are_measured_where_the_class_of_a_boxed_scan_is_known(elsewhere):
    scans, kinds = boxed_elsewhere(elsewhere[0], False, elsewhere[1], seed=0)
    assert set(kinds) == {"web T1 glioma"}
    assert sorted(scans.groups.tolist()) == [0, 0, 1, 1, 2, 2]
    assert (scans.labels == LABELS.index("glioma")).all()
    assert scans.boxes == pytest.approx(np.array([box_of("glioma")] * 6), abs=1e-6)
    found = measure_elsewhere(brightest_classifier(), scans, kinds, ["occlusion"], 4, seed=0)["web T1 glioma"]
    assert (found["n"], found["units"]) == (6, 3)
    assert found["methods"]["occlusion"]["pointing_game"]["value"] == 1
    assert found["methods"]["occlusion"]["pointing_game"]["n"] == 4
    assert found["methods"]["occlusion"]["energy_lift"]["value"] > 4
    assert found["baselines"]["uniform"]["energy_lift"]["value"] == pytest.approx(1)


def test_boxes_move_with_the_frame(elsewhere):
    scans, _ = boxed_elsewhere(elsewhere[0], True, elsewhere[1], seed=0)
    for file, box in zip(scans.files, scans.boxes, strict=True):
        framed = np.asarray(frame(Image.open(file)).image)
        rows, columns = np.nonzero(framed == framed.max())
        x, y = columns.mean() / framed.shape[1], rows.mean() / framed.shape[0]
        assert box[0] < x < box[2]
        assert box[1] < y < box[3]


def test_the_command_adds_what_it_measures_elsewhere(measured, data, tmp_path):
    folder = shutil.copytree(measured[0], tmp_path / "tiny")
    (tmp_path / "web" / "glioma").mkdir(parents=True)
    names = [f"glioma/P{seed}_T1.png" for seed in range(300, 306)]
    for seed, name in enumerate(names, start=300):
        make_scan("glioma", seed).save(tmp_path / "web" / name)
    with (tmp_path / "web.csv").open("w", newline="") as file:
        rows = [[name, *box_of("glioma")] for name in names]
        csv.writer(file).writerows([("file", "x_min", "y_min", "x_max", "y_max"), *rows])
    source = f"{tmp_path}/web:hold=0.5,patient=P[0-9]+"
    arguments = ["--checkpoint", folder, "--data-dir", data, "--boxes", tmp_path / "web.csv", "--source", source]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([*map(str, arguments), "--methods", "grad_cam"])
    content = json.loads((folder / "explanations.json").read_text())
    elsewhere = content.pop("elsewhere")
    assert content == measured[2], "what was measured at home stays"
    assert elsewhere["kinds"]["web T1 glioma"]["n"] == elsewhere["kinds"]["web T1 glioma"]["units"] == 3
    assert elsewhere["kinds"]["web T1 glioma"]["methods"]["grad_cam"]["pointing_game"]["n"] == 3
    assert "--source 'web:hold=0.5,patient=P[0-9]+'" in elsewhere["command"]
    assert str(tmp_path) not in elsewhere["command"]
    assert "| web T1 glioma | `grad_cam` |" in printed.getvalue()


def test_without_a_known_class_there_is_nothing_to_measure_elsewhere(elsewhere):
    unseen, boxes = elsewhere
    unknown = replace(unseen, kinds={kind: part for kind, part in unseen.kinds.items() if "T2" in kind})
    with pytest.raises(DataError, match="No scan of a known class"):
        boxed_elsewhere(unknown, False, boxes, seed=0)


def test_blurred_pixels_replace_less_than_black_ones():
    classifier = brightest_classifier(0.4)  # the blurred mark is still brighter
    scans = boxed_scans("pituitary", range(3))
    brightness = Candidate("brightness", lambda pixels, target: pixels.astype(np.float32))
    gains = {}
    for baseline in ("black", "blurred"):
        benchmark = Benchmark(classifier, {"test": scans}, {"test": scans.labels}, 3, 0, baseline)
        gains[baseline] = measure_faithfulness(benchmark, brightness)
    assert gains["black"]["srg"]["n"] == 3
    # Black takes all brightness away at the first step; blurred, a part of the mark stays bright for longer.
    assert gains["black"]["deletion"]["value"] < gains["blurred"]["deletion"]["value"]
    assert all(found["srg"]["value"] > 0 for found in gains.values())


def test_localization_means_by_hand():
    benchmark = Benchmark(None, {"test": boxed_scans("glioma", range(4))}, {}, limit=4, seed=0)
    rows = {
        "image": np.array([0, 1, 3]),
        "pointing_game": np.array([1.0, 0.0, 0.0]),
        "pointing_game_15": np.array([1.0, 1.0, 0.0]),
        "energy_in_box": np.array([0.4, 0.1, 0.1]),
        "box_share": np.array([0.1, 0.1, 0.2]),
        "rank_accuracy": np.array([0.5, 0.25, 0.0]),
        "peak_down": np.array([2.0, -4.0, 50.0]),
        "peak_right": np.array([1.0, 1.0, -50.0]),
    }
    found = summarize(benchmark, rows)
    assert {key: (round(entry["value"], 6), entry["n"]) for key, entry in found.items()} == {
        "pointing_game": (0.333333, 3),
        "pointing_game_15": (0.666667, 3),
        "energy_in_box": (0.2, 3),
        "rank_accuracy": (0.25, 3),
        "energy_lift": (1.5, 3),  # 0.6 over 0.4
        "peak_down": (-1, 2),  # only where the peak is near
        "peak_right": (1, 2),
    }
    lost = summarize(benchmark, rows | {"pointing_game_15": np.zeros(3)})
    assert not {"peak_down", "peak_right"} & set(lost)


def test_consensus_weights_are_the_gains_over_chance_on_validation():
    def rows(pointing, energy):
        return {"pointing_game": np.array(pointing), "energy_in_box": np.array(energy), "box_share": np.full(2, 0.1)}

    assert gain_over_chance(rows([1, 0], [0.3, 0.1])) == pytest.approx(0.35 - 0.1)
    assert gain_over_chance(rows([0, 0], [0.0, 0.1])) == 0
    assert normalize_weights({"a": 0.3, "b": 0.1, "c": 0.0}) == pytest.approx({"a": 0.75, "b": 0.25, "c": 0})
    assert normalize_weights({"a": 0.0, "b": 0.0}) == {"a": 0.5, "b": 0.5}


def test_the_number_of_images_follows_the_declared_cost():
    scans = boxed_scans("glioma", range(120))
    benchmark = Benchmark(None, {"validation": scans, "test": scans}, {})
    cheap = {key for key, method in METHODS.items() if benchmark.sample_size("test", method.forward_passes) == 120}
    assert cheap == set(METHODS) - {"smooth_grad", "integrated_gradients", "occlusion", "consensus"}
    assert benchmark.sample_size("test", METHODS["occlusion"].forward_passes) == 100
    assert [benchmark.sample_size("validation", passes) for passes in (1, 200)] == [120, 25]
    assert [replace(benchmark, limit=110).sample_size("test", passes) for passes in (1, 200)] == [110, 100]
    assert [replace(benchmark, limit=9).sample_size(name, 200) for name in benchmark.sets] == [9, 9]


def test_the_clock_does_not_choose_the_number_of_images(monkeypatch):
    """Every interval that is measured lasts longer than the one before, so any measured cost is far off."""
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock) ** 3))
    sets = {"validation": boxed_scans("glioma", range(3)), "test": boxed_scans("glioma", range(3, 17))}
    benchmark = Benchmark(brightest_classifier(), sets, {name: scans.labels for name, scans in sets.items()})
    found = measure_all(benchmark, ["saliency", "occlusion"], sets["test"].labels)["methods"]
    assert {method: entry["pointing_game"]["n"] for method, entry in found.items()} == {"saliency": 14, "occlusion": 14}


def test_a_stretched_map_is_the_interpolated_feature_map(checkpoint):
    """Read Grad-CAM's feature map off its attribution and resample it as other libraries do."""
    classifier = load_checkpoint(checkpoint)
    scan = make_scan("glioma", 3)
    explanation = explain(classifier, scan, "grad_cam")
    layer = target_layer(classifier)
    size = explanation.attribution.shape
    rows, columns = (
        (offset + stride * np.arange(count)).astype(int)
        for count, stride, offset in zip(layer.grid_size, layer.stride, layer.offset, strict=True)
    )
    feature_map = torch.from_numpy(explanation.attribution[np.ix_(rows, columns)])[None, None]
    expected = torch.nn.functional.interpolate(feature_map, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    assert stretch(explanation.attribution, layer) == pytest.approx(expected, abs=1e-6)
    assert not np.allclose(expected, explanation.attribution)


def test_positions_between_pixels_or_beyond_the_border_are_read_at_the_nearest_pixel():
    feature_map = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    layer = TargetLayer("", (3, 3), (8.0, 8.0), (7.0, 7.0))  # the last position is centered on the last pixel
    attribution = resample_to_image(feature_map, layer, (24, 24))[0, 0].numpy()
    expected = torch.nn.functional.interpolate(feature_map, (24, 24), mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    assert stretch(attribution, layer) == pytest.approx(expected, abs=1e-6)


def test_methods_that_cannot_work_are_listed_with_the_reason():
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=4).eval()
    info = CheckpointInfo("test", "0", "test_vit")
    classifier = Classifier(model, LABELS, Preprocessing((160, 160), **PLAIN), info)
    refused, chosen = choose_methods(classifier, ["grad_cam", "occlusion"])
    assert chosen == ["occlusion"]
    assert list(refused) == ["grad_cam"]
    with pytest.raises(ValueError, match="None of the methods"):
        choose_methods(classifier, ["grad_cam"])


def test_means_are_bootstrapped_by_duplicate_group():
    values, ones = np.array([0.0, 1.0, 1.0, 1.0]), np.ones(4)
    apart = ratio_with_interval(values, ones, np.arange(4), Bootstrap())
    assert apart["value"] == 0.75
    assert apart["n"] == 4
    # As one group they are always drawn together.
    together = ratio_with_interval(values, ones, np.zeros(4, dtype=int), Bootstrap())
    assert together == {"value": 0.75, "low": 0.75, "high": 0.75, "n": 4}
    lift = ratio_with_interval(np.array([0.4, 0.2]), np.array([0.1, 0.2]), np.arange(2), Bootstrap())
    assert lift["value"] == pytest.approx(2)
    assert (lift["low"], lift["high"]) == pytest.approx((1, 4))


def test_bundling_copies_the_numbers(measured, tmp_path):
    run = shutil.copytree(BUNDLED / "resnet18", tmp_path / "run")
    numbers = measured[2] | {"checkpoint": measured[2]["checkpoint"] | {"revision": weights_hash(run / WEIGHTS_NAME)}}
    (run / "README.md").write_text("an older card")
    save_explanations(numbers, run)
    assert "*center*" in (run / "README.md").read_text(), "the card is renewed"
    (run / "figures" / "explanations.png").write_bytes(b"figure")
    bundle(run, tmp_path / "bundled")
    assert load_checkpoint(tmp_path / "bundled").explanations == numbers
    assert (tmp_path / "bundled" / "figures" / "explanations.png").read_bytes() == b"figure"
    (run / "explanations.json").unlink()
    bundle(run, tmp_path / "bundled")
    assert not (tmp_path / "bundled" / "explanations.json").exists()
