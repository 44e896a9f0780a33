"""Robustness: changes put pixels where they say, maps are compared in the place of the original, files are written."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from brain_xai import load_checkpoint
from brain_xai.checkpoint.catalog import BUNDLED
from tests.helpers.nets import PLAIN, Blocks, make_classifier, make_scan
from training.evaluation.changes import CHANGES
from training.publishing.bundle import bundle
from training.report.card import card_of
from training.report.robustness import robustness_table
from training.robustness import Row, Sample, alike, look, main, measure_level, places, points_at

MOVING = [(name, level) for name in ("rotation", "crop", "padding", "mirror") for level in CHANGES[name].levels]
STAYING = [(name, level) for name in CHANGES if name not in dict(MOVING) for level in CHANGES[name].levels]


def brightest(image):
    rows, columns = np.nonzero(np.asarray(image) > 200)
    return np.array([[(columns.mean() + 0.5) / image.width, (rows.mean() + 0.5) / image.height]])


@pytest.mark.parametrize(("name", "level"), MOVING)
def test_a_point_is_where_the_change_says(name, level):
    pixels = np.zeros((120, 90), np.uint8)
    pixels[70:75, 50:55] = 255
    image, change = Image.fromarray(pixels), CHANGES[name]
    moved = change.apply(image, level, np.random.default_rng(0))
    told = change.move(brightest(image), level, image.size)
    # Margins are whole pixels.
    assert brightest(moved) == pytest.approx(told, abs=0.011)


@pytest.mark.parametrize(("name", "level"), STAYING)
def test_other_changes_change_the_image_and_nothing_else(name, level):
    image, change = make_scan((96, 80)), CHANGES[name]
    before = np.array(image)
    changed, again = (change.apply(image, level, np.random.default_rng(1)) for _ in range(2))
    assert (changed.size, changed.mode) == (image.size, "L")
    assert np.array_equal(np.asarray(image), before), "the original stays"
    assert np.array_equal(np.asarray(changed), np.asarray(again)), "one seed, one image"
    assert (np.asarray(changed) != before).any()
    points = places()
    assert np.array_equal(change.move(points, level, image.size), points)


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in STAYING))
def test_levels_go_from_weak_to_strong(name):
    """By the mean absolute difference from the original, for brightness and contrast on both sides of 1."""
    image, change = make_scan((96, 96)), CHANGES[name]
    differences = [
        np.abs(np.asarray(change.apply(image, level, np.random.default_rng(0)), int) - np.asarray(image, int)).mean()
        for level in change.levels
    ]
    if name in ("brightness", "contrast"):
        assert differences[0] > differences[1]
        assert differences[3] > differences[2]
    else:
        assert differences == sorted(differences)


@pytest.mark.parametrize("axes", CHANGES["mirror"].levels)
def test_the_map_of_a_mirrored_scan_is_compared_in_place(axes):
    """The hand-made model sees blocks of 8 x 8 pixels one by one: its map of a mirrored scan is the mirrored map."""
    classifier, image, change = make_classifier(Blocks(), (64, 64), PLAIN), make_scan((64, 64)), CHANGES["mirror"]
    plain = look(classifier, image, 0, places())
    mirrored = change.apply(image, axes, np.random.default_rng(0))
    undone = look(classifier, mirrored, 0, change.move(places(), axes, image.size))
    assert undone.attribution == pytest.approx(plain.attribution, abs=1e-6)
    assert alike(undone, plain) == pytest.approx(1)
    assert alike(look(classifier, mirrored, 0, places()), plain) < 0.9, "without undoing it is another map"


def test_what_the_model_did_not_see_is_not_compared():
    classifier, image, change = make_classifier(Blocks(), (64, 64), PLAIN), make_scan((64, 64)), CHANGES["crop"]
    cropped = look(
        classifier, change.apply(image, 0.15, None), 0, change.move(places(), 0.15, image.size)
    )  # fmt: skip
    seen = np.isfinite(cropped.attribution).reshape(80, 80)
    assert seen[12:68, 12:68].all()
    assert not seen[:12].any()
    assert not seen[:, 68:].any()
    nothing = Row(True, (), np.full(6400, np.nan))
    assert alike(cropped, nothing) == 0
    assert points_at(nothing.attribution, np.array([0.0, 0.0, 1.0, 1.0])) == 0


def test_a_level_by_hand():
    peak = np.zeros((80, 80))
    peak[20, 60] = 1  # at x = .756, y = .256
    rows = [Row(True, ("low_margin",), peak.ravel()), Row(False, (), peak.ravel()), Row(True, (), -peak.ravel())]
    boxes = np.array([[0.7, 0.2, 0.8, 0.3], [0.2, 0.7, 0.3, 0.8], [np.nan] * 4], dtype=np.float32)
    sample = Sample([], np.zeros(3, int), np.arange(3), boxes)
    plain = [Row(True, (), peak.ravel())] * 3
    measured = measure_level(rows, plain, sample, seed=0)
    assert measured["accuracy"]["value"] == pytest.approx(2 / 3)
    assert measured["warned"]["value"] == pytest.approx(1 / 3)
    assert measured["codes"]["low_margin"]["value"] == pytest.approx(1 / 3)
    assert measured["rank_correlation"]["value"] == pytest.approx(1 / 3)  # 1, 1 and -1
    assert (measured["pointing_game"]["value"], measured["pointing_game"]["n"]) == (0.5, 2)


def test_the_command_writes_file_figure_and_card(boxed_data, tiny_checkpoint, tmp_path, capsys):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    main(
        [
            "--checkpoint", str(folder), "--data-dir", str(boxed_data), "--boxes", str(boxed_data / "boxes.csv"),
            "--images", "8",
        ]
    )  # fmt: skip
    content = json.loads((folder / "robustness.json").read_text())
    assert content["checkpoint"]["revision"] == load_checkpoint(folder).info.revision
    assert (content["n"], set(content["classes"].values())) == (8, {2})
    assert list(content["changes"]) == list(CHANGES)
    for name, change in content["changes"].items():
        assert [level["level"] for level in change["levels"]] == list(CHANGES[name].levels)
        for level in change["levels"]:
            for measure in ("accuracy", "warned", "pointing_game"):
                assert 0 <= level[measure]["low"] <= level[measure]["value"] <= level[measure]["high"] <= 1
            assert -1 <= level["rank_correlation"]["value"] <= 1
    assert content["unchanged"]["rank_correlation"]["value"] == 1
    assert content["unchanged"]["pointing_game"]["n"] == 6  # two of each class with a tumor
    assert (folder / "figures" / "robustness.png").read_bytes().startswith(b"\x89PNG")
    table = robustness_table(content)
    assert capsys.readouterr().out.strip() == table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    assert "| mirror | left-right / upside down / both axes |" in table


def test_robustness_of_other_weights_is_not_shown(tmp_path):
    """And it is bundled with the rest."""
    run = shutil.copytree(sorted(BUNDLED.glob("*/metrics.json"))[0].parent, tmp_path / "run")
    entry = {"value": 0.4321, "low": 0.4, "high": 0.5, "n": 77}
    level = dict.fromkeys(("accuracy", "warned", "rank_correlation", "pointing_game"), entry)
    content = {
        "checkpoint": {"name": "run", "revision": load_checkpoint(run).info.revision},
        "split": "purged",
        "seed": 0,
        "n": 240,
        "classes": {"glioma": 60},
        "interval": {"level": 0.95},
        "unchanged": level,
        "changes": {"wobble": {"unit": "degrees", "levels": [level | {"level": 5}, level | {"level": 15}]}},
    }
    (run / "robustness.json").write_text(json.dumps(content))
    assert "| wobble | 5 / 15 degrees | 0.43 / 0.43 |" in card_of(run)
    bundle(run, tmp_path / "bundled")
    assert "| wobble |" in (tmp_path / "bundled" / "README.md").read_text()
    content["checkpoint"]["revision"] = "other"
    (run / "robustness.json").write_text(json.dumps(content))
    assert "wobble" not in card_of(run)
