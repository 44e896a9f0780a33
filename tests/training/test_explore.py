"""Exploring a data set: what a maintainer must not overlook is found and shown."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.scans import make_scan
from training.evaluation.exploration import find_outliers
from training.explore import main


def test_outliers_by_hand():
    """One image is as bright as nothing else in its class; the other class is bright as a whole, and that is usual."""
    brightness = np.array([50.0, 51, 52, 53, 54, 200, 198, 199, 200, 201, 202, 203])
    same = np.arange(12) % 3.0
    labels = np.array([0] * 6 + [1] * 6)
    found = find_outliers({"brightness": brightness, "contrast": same, "sharpness": same}, labels)
    assert found == [(5, "brightness")]


@pytest.fixture
def folder(tmp_path):
    """Two classes that differ in brightness; one image under both labels, one test image with a copy, one bad file."""
    root = tmp_path / "scans"
    for part, seeds in (("Training", range(12)), ("Testing", range(12, 16))):
        for label in ("dark", "light"):
            (root / part / label).mkdir(parents=True)
            for seed in seeds:
                pixels = np.asarray(make_scan("glioma", seed + 100 * (label == "light"))) // 2
                shifted = pixels + 90 * (label == "light") * (pixels > 4)
                Image.fromarray(shifted.astype(np.uint8)).save(root / part / label / f"{seed:02d}.png")
    (root / "Training" / "dark" / "twice.png").write_bytes((root / "Training" / "light" / "00.png").read_bytes())
    (root / "Training" / "dark" / "copy.png").write_bytes((root / "Testing" / "dark" / "12.png").read_bytes())
    (root / "Training" / "dark" / "bad.png").write_bytes(b"no image")
    return root


def test_the_page_shows_leaks_conflicts_and_what_gives_the_class_away(folder, tmp_path, capsys):
    page = tmp_path / "report.html"
    main(["--data-dir", str(folder), "--output", str(page)])
    printed = capsys.readouterr().out
    assert "34 images: dark 18, light 16" in printed
    assert "32 of them distinct; 1 of 8 test images have a copy in the training set" in printed
    assert "1 images with copies under another label" in printed
    assert "1 files skipped" in printed
    text = page.read_text(encoding="utf-8")
    assert "bad.png" in text
    assert "One image, two labels" in text
    brightness = re.search(r"<td>mean brightness</td>\s*<td>([\d.]+)</td>", text)
    assert float(brightness.group(1)) > 0.9
    assert set(re.findall(r'src="(\w+):', text)) == {"data"}  # nothing is loaded from elsewhere
    assert "http" not in text


def test_a_folder_without_images_ends_with_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="error: "):
        main(["--data-dir", str(tmp_path), "--output", str(tmp_path / "report.html")])
