"""The figures: files that can be read, whose text and colors carry the numbers they were given."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tests.helpers.measured import shortcuts
from training.report import figures
from training.report.confidence import confidence_by_source
from training.report.robustness import MEASURES, robustness_figure

HISTORY = [
    {
        "epoch": epoch,
        "size": size,
        "train_loss": 1 / epoch,
        "train_accuracy": 1 - 0.5 / epoch,
        "validation_loss": 1.2 / epoch,
        "validation_accuracy": 1 - 0.6 / epoch,
        "validation_macro_f1": f1,
        "seconds": 40.0,
    }
    for epoch, (size, f1) in enumerate([(128, 0.5), (128, 0.8), (160, 0.75), (160, 0.9), (160, 0.85)], 1)
]


def a_bin(index, count, probability=None, accuracy=None):
    return {
        "low": index / 15,
        "high": (index + 1) / 15,
        "count": count,
        "probability": probability,
        "accuracy": accuracy,
    }


METRICS = {
    "split": "purged",
    "history": HISTORY,
    "training": {"best_epoch": 4},
    "test": {
        "accuracy": {"value": 0.95, "low": 0.94, "high": 0.96},
        "ece": {"value": 0.0123, "low": 0.01, "high": 0.03},
        "confusion_matrix": [[900, 100], [0, 1000]],
        "label_names": ["glioma", "notumor"],
        "n": 2000,
        "bins": [*(a_bin(i, 0) for i in range(13)), a_bin(13, 40, 0.9, 0.5), a_bin(14, 1960, 0.99, 0.97)],
    },
}


def texts(figure):
    shown = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return "\n".join(text for text in shown if text)


def test_every_figure_is_a_readable_image_and_the_same_each_time(tmp_path):
    for folder in ("one", "two"):
        figures.save_figures(METRICS, tmp_path / folder)
    names = ["confusion_matrix.png", "curves.png", "reliability.png"]
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == names
    for name in names:
        file = tmp_path / "one" / name
        assert file.read_bytes() == (tmp_path / "two" / name).read_bytes()
        with Image.open(file) as opened:
            assert opened.format == "PNG"
            assert min(opened.size) >= 500
            assert file.stat().st_size < 200_000


def test_titles_name_split_n_and_interval(tmp_path):
    curves = figures.curves(HISTORY, 3, tmp_path / "curves.png")
    assert f"validation macro-F1 {HISTORY[2]['validation_macro_f1']:.3f}, published epoch 3 of 5" in texts(curves)
    confusion = figures.confusion_matrix(METRICS, tmp_path / "confusion.png")
    assert "test images, purged split, n = 2,000\nAccuracy 0.950 [0.940, 0.960]" in texts(confusion)
    reliability = figures.reliability(METRICS, tmp_path / "reliability.png")
    assert "test images, purged split, n = 2,000\nECE 0.012 [0.010, 0.030]" in texts(reliability)


def test_curves_show_the_numbers_and_where_the_size_changes(tmp_path):
    loss, accuracy = figures.curves(HISTORY, 3, tmp_path / "curves.png").axes
    for axes, keys in (
        (loss, ["train_loss", "validation_loss"]),
        (accuracy, ["train_accuracy", "validation_accuracy", "validation_macro_f1"]),
    ):
        lines = [line for line in axes.lines if len(line.get_xdata()) == len(HISTORY)]
        for line, key in zip(lines, keys, strict=True):
            assert list(line.get_ydata()) == [row[key] for row in HISTORY]
        sizes = {text.get_text(): text.xy[0] for text in axes.texts}
        assert sizes == {"128 px": 0.5, "160 px": 2.5}


def test_a_run_of_one_epoch_can_be_drawn(tmp_path):
    figures.curves(HISTORY[:1], 1, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_confusion_matrix_shows_counts_and_row_shares_and_makes_errors_visible(tmp_path):
    [axes] = figures.confusion_matrix(METRICS, tmp_path / "confusion.png").axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "900\n90.0%", (1, 0): "100\n10.0%", (0, 1): "0", (1, 1): "1,000\n100.0%"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["glioma\nn = 1,000", "notumor\nn = 1,000"]
    image = axes.images[0]
    brightness = image.to_rgba(image.get_array())[..., :3].mean(-1)
    none, tenth, most, all_ = np.array(brightness)[[1, 0, 0, 1], [0, 1, 0, 1]]
    assert none - tenth > 0.2
    assert none > tenth > most > all_


def test_a_class_without_images_leaves_the_confusion_matrix_drawable(tmp_path):
    test = METRICS["test"] | {"confusion_matrix": [[5, 1], [0, 0]]}
    [axes] = figures.confusion_matrix(METRICS | {"test": test}, tmp_path / "confusion.png").axes
    assert [text.get_text() for text in axes.texts] == ["5\n83.3%", "1\n16.7%", "0", "0"]


def test_reliability_has_one_bar_per_filled_bin_and_its_count(tmp_path):
    upper, lower = figures.reliability(METRICS, tmp_path / "reliability.png").axes
    assert [bar.get_height() for bar in upper.patches] == [0.5, 0.97]
    assert [bar.get_x() + bar.get_width() / 2 for bar in upper.patches] == pytest.approx([13.5 / 15, 14.5 / 15])
    assert [list(line.get_xdata()) for line in upper.lines] == [[0.9, 0.99], [0, 1]]
    assert [bar.get_height() for bar in lower.patches] == [40, 1960]
    assert [text.get_text() for text in lower.texts] == ["40", "1,960"]


def a_map(value, n=300):
    entry = {"value": value, "low": value - 0.05, "high": value + 0.1, "n": n}
    return {"pointing_game": entry, "energy_lift": entry, "srg": entry | {"n": 25}}


def test_quality_of_maps_shows_every_method_with_interval_n_and_baselines(tmp_path):
    explanations = {
        "checkpoint": {"architecture": "resnet18"},
        "target": "true",
        "interval": {"level": 0.95},
        "methods": {"grad_cam": a_map(0.6), "occlusion": a_map(0.4, 20)},
        "baselines": {name: a_map(0.1 * i) for i, name in enumerate(("uniform", "center", "edges", "random_weights"))},
    }
    figure = figures.explanation_quality(explanations, tmp_path / "explanations.png")
    assert [axes.get_title() for axes in figure.axes] == ["pointing game", "energy, times chance", "SRG"]
    for axes, counts in zip(figure.axes, (["n = 300", "n = 20"], ["n = 300", "n = 20"], ["n = 25"] * 2), strict=True):
        assert [text.get_text() for text in axes.texts] == counts
        points = [line for line in axes.lines if line.get_marker() == "o"]
        assert [list(line.get_xdata()) for line in points] == [[0.6, 0.4]]
        [bars] = axes.collections
        ends = [[tuple(point) for point in segment] for segment in bars.get_segments()]
        assert np.array(ends).ravel() == pytest.approx([0.55, 0, 0.7, 0, 0.35, 1, 0.5, 1])
        lines = {line.get_label(): line.get_xdata()[0] for line in axes.lines if "uniform" in line.get_label()}
        assert lines == {"uniform": 0}
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["grad_cam", "occlusion"]
    for part in ("random weights", "never trained on", "true class explained", "95% intervals"):
        assert part in texts(figure)
    with Image.open(tmp_path / "explanations.png") as opened:
        assert opened.format == "PNG"


def test_colors_stay_apart_for_color_blind_readers():
    """Simulated with the matrices of Viénot et al. 1999 (protanopia, deuteranopia) and in gray."""
    hexes = (figures.BLUE, figures.ORANGE, figures.GREEN)
    colors = np.array([[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in hexes]) ** 2.2
    protanopia = np.array([[0.112, 0.888, 0.0], [0.112, 0.888, 0.0], [0.004, -0.004, 1.0]])
    deuteranopia = np.array([[0.293, 0.707, 0.0], [0.293, 0.707, 0.0], [-0.021, 0.021, 1.0]])
    for matrix in (np.eye(3), protanopia, deuteranopia):
        seen = (colors @ matrix.T).clip(0) ** (1 / 2.2)
        distances = [np.linalg.norm(a - b) for a, b in [*pairwise(seen), (seen[0], seen[2])]]
        assert min(distances) > 0.2


def test_trust_has_a_panel_for_each_source_and_one_for_coverage(tmp_path):
    measured = shortcuts()["confidence"]
    figure = confidence_by_source(measured, tmp_path / "confidence.png")
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == len(measured) + 1
    for axes, (source, part) in zip(shown, measured.items(), strict=False):
        assert axes.get_title() == f"{source}, n = 1,234\nECE 0.032 [0.500, 0.875]"
        assert [bar.get_height() for bar in axes.patches] == [row["accuracy"] for row in part["bins"]]
    curves = {line.get_label(): line.get_xydata().tolist() for line in shown[-1].lines}
    assert curves == {source: part["curve"] for source, part in measured.items()}
    with Image.open(tmp_path / "confidence.png") as image:
        assert image.width > 1000


def test_robustness_has_a_panel_for_each_change(tmp_path):
    entry = {"value": 0.5, "low": 0.4, "high": 0.7, "n": 8}
    level = dict.fromkeys(MEASURES, entry)
    content = {
        "checkpoint": {"name": "tiny"},
        "n": 8,
        "interval": {"level": 0.95},
        "unchanged": level,
        "changes": {
            name: {"unit": "degrees", "levels": [level | {"level": 5, "accuracy": entry | {"value": 0.6}}]}
            for name in ("rotation", "wobble")
        },
    }
    figure = robustness_figure(content, tmp_path / "robustness.png")
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == ["rotation\ndegrees", "wobble\ndegrees"]
    assert [label.get_text() for label in shown[0].get_xticklabels()] == ["none", "5"]
    accuracy = shown[0].containers[list(MEASURES).index("accuracy")].lines[0]
    assert accuracy.get_ydata().tolist() == [0.5, 0.6]
    # Without boxes there is no pointing game, and no line of it.
    content["unchanged"] = level | {"pointing_game": None}
    without = robustness_figure(content, tmp_path / "robustness.png")
    assert len(without.axes[0].containers) == len(MEASURES) - 1
