"""The two scores of the gate: their text in a checkpoint, and what they tell of scans and of other images."""

import numpy as np
from PIL import Image

from brain_xai.checkpoint import load_checkpoint
from brain_xai.gate import packed, unpacked
from training.data.foreign_images import KINDS, foreign_images


def test_half_precision_survives_text():
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float16)
    assert unpacked(packed(values)).tolist() == values.astype(float).tolist()
    assert unpacked([[1.5, 2]]).tolist() == [[1.5, 2]]


def test_the_default_checkpoint_tells_scans_from_images_made_by_code(data_root):
    classifier = load_checkpoint("default")
    files = sorted((data_root / "brain-tumor-mri" / "Testing").glob("*/*"))[::33]

    def warned(image):
        return any(warning.code in ("not_brain_mri", "unusual_scan") for warning in classifier.predict(image).warnings)

    scans = [warned(file) for file in files]
    assert np.mean(scans) <= 0.1, "1 % is promised"
    grays = [Image.open(file).convert("L") for file in files]
    foreign = foreign_images(grays, count=1, seed=7, kinds=[kind for kind in KINDS if KINDS[kind].family != "turned"])
    told = {kind: warned(images[0]) for kind, images in foreign.items()}
    assert np.mean(list(told.values())) >= 0.85, told
