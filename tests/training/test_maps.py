"""The panel of maps: one row per class, the same for the same seed, and no file if the method cannot work."""

import numpy as np
import pytest
from PIL import Image

from brain_xai import load_checkpoint
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import save_tiny_checkpoint
from training.report.maps import PredictedScans, save_maps


@pytest.fixture(scope="module")
def scans() -> PredictedScans:
    """Three scans of each class, all predicted as glioma: three answers are right."""
    references = np.repeat(np.arange(2), 3)
    pixels = np.stack([np.asarray(make_scan(LABELS[label], seed)) for seed, label in enumerate(references)])
    return PredictedScans(pixels, references, np.zeros(6, dtype=np.int64))


def test_the_panel_has_a_row_for_each_class_and_depends_on_the_seed(scans, tmp_path):
    classifier = load_checkpoint(save_tiny_checkpoint(tmp_path / "tiny", LABELS[:2]))
    paths = [tmp_path / f"{name}.png" for name in ("one", "same", "other")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        assert save_maps(classifier, scans, seed, path)
    one, same, other = (np.asarray(Image.open(path).convert("L"), dtype=int) for path in paths)
    # Not bit by bit: how many threads there are decides in which order a convolution adds up.
    assert np.abs(one - same).mean() < 0.1
    assert np.abs(one - other).mean() > 1
    rows = one[150:]  # below the title
    half = rows.shape[1] // 2
    first, last = np.array_split(rows, 2)
    # Glioma has only right answers, on the left, the other class only wrong ones, on the right. Scans are dark.
    assert (first[:, :half] < 60).mean() > 0.2 > (first[:, half:] < 60).mean()
    assert (last[:, :half] < 60).mean() < 0.2 < (last[:, half:] < 60).mean()


def test_where_the_method_cannot_work_there_is_no_panel(scans, tmp_path):
    classifier = load_checkpoint(save_tiny_checkpoint(tmp_path / "vit", LABELS[:2], "test_vit", side=160))
    assert save_maps(classifier, scans, 0, tmp_path / "maps.png") is False
    assert not (tmp_path / "maps.png").exists()
