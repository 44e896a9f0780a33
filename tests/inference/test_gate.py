"""What is plainly no brain MRI, and the plain measures that the gate judges by."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from brain_xai.checkpoint import load_checkpoint
from brain_xai.gate import MEASURED, measures, packed, plainly_foreign, unpacked
from tests.helpers.scans import LABELS, make_scan
from training.data.foreign_images import KINDS, foreign_images

BLACK, WHITE = Image.new("L", (96, 96)), Image.new("L", (96, 96), 255)


@pytest.mark.parametrize("label", LABELS)
def test_a_scan_is_not_plainly_foreign(label):
    scan = make_scan(label, 1)
    assert not plainly_foreign(scan, color_share=0.1)
    assert plainly_foreign(scan, color_share=0.2)


def test_blank_white_and_long_images_are_plainly_foreign():
    scan = make_scan("glioma", 1)
    pale = scan.point(lambda value: 100 + value // 20)  # 13 gray levels
    page = WHITE.copy()
    page.paste(BLACK, (0, 60))  # white on 62 %
    strip = ImageOps.pad(scan, (260, 100))
    for image in (BLACK, WHITE, pale, page, strip):
        assert plainly_foreign(image, color_share=0.0)
    assert not plainly_foreign(ImageOps.pad(scan, (240, 100)), color_share=0.0)


def test_measures_are_finite_and_as_many_for_any_image():
    scan = make_scan("glioma", 1)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8))
    counts = set()
    for image in (BLACK, WHITE, scan, noise, noise.convert("RGB")):
        values = measures(image, image.resize((64, 64)))
        assert np.isfinite(values).all()
        counts.add(values.shape)
    assert counts == {(MEASURED,)}


def test_measures_see_the_form_and_the_margins():
    wide = measures(BLACK.resize((192, 96)), BLACK)
    assert wide[0] == pytest.approx(np.log(2))
    assert measures(BLACK, WHITE)[[1, 13]].tolist() == [1, 0], "the dark share of the whole image and of its view"
    framed = WHITE.copy()
    framed.paste(BLACK.crop((0, 0, 90, 90)), (3, 3))
    margins = measures(framed, BLACK)[25:35]
    assert margins[[0, 2, 6, 7, 8, 9]].tolist() == [1] * 6, "all four margins are white"


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
