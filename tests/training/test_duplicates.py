"""Duplicate groups: which changed copies are recognized, and which different images are kept apart."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter

from training.data.duplicate_groups import THUMBNAIL_SIZE, duplicate_groups, duplicate_report, thumbnail
from training.duplicates import main


def smooth_image(seed: int, width: int = 240, height: int = 220) -> Image.Image:
    """Blobs of several sizes on black: like a scan, with coarse and fine structure and no symmetry."""
    random = np.random.default_rng(seed)
    blobs = sum(scale * gaussian_filter(random.standard_normal((height, width)), scale) for scale in (2, 4, 8, 16, 32))
    blobs -= blobs.min()
    return Image.fromarray((255 * blobs / blobs.max()).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def groups_of(*images: Image.Image) -> list[int]:
    return duplicate_groups(np.stack([thumbnail(image) for image in images])).tolist()


SAME = {
    "identical": lambda image: image.copy(),
    "rgb": lambda image: image.convert("RGB"),
    "jpeg": lambda image: jpeg(image, 50),
    "smaller": lambda image: image.resize((110, 101)),
    "larger": lambda image: image.resize((512, 512)),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "rotated by 180°": lambda image: image.rotate(180),
    "mirrored, smaller and jpeg": lambda image: jpeg(ImageOps.mirror(image).resize((150, 140)), 70),
    "brightened until it clips": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "sharpened and mirrored": lambda image: ImageOps.mirror(image).filter(ImageFilter.UnsharpMask(3, 150)),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_a_changed_copy_is_the_same_image(change):
    for seed in range(3):
        image = smooth_image(seed)
        assert groups_of(image, smooth_image(seed + 100), change(image)) == [0, 1, 0]


@pytest.mark.parametrize("size", [96, 110, 128, 150, 180, 300, 512])
def test_a_finely_grained_image_survives_resizing(size):
    grains = gaussian_filter(np.random.default_rng(0).standard_normal((224, 224)), 1)
    image = Image.fromarray((128 + 100 * grains / abs(grains).max()).astype(np.uint8))
    assert groups_of(image, image.resize((size, size))) == [0, 0]


@pytest.mark.parametrize("angle", [90, 270])
def test_a_quarter_turn_is_another_image(angle):
    image = smooth_image(0)
    assert groups_of(image, image.rotate(angle, expand=True)) == [0, 1]


def test_inverted_brightness_is_another_image():
    image = smooth_image(0)
    assert groups_of(image, ImageOps.invert(image)) == [0, 1]


def test_different_images_with_the_same_outline_are_kept_apart():
    # A bright head on black makes any two slices look alike; only what is inside differs.
    black, head = Image.new("L", (240, 220)), Image.new("L", (240, 220))
    ImageDraw.Draw(head).ellipse((35, 15, 205, 205), fill=255)
    head = head.filter(ImageFilter.GaussianBlur(3))
    inside = (Image.blend(head, smooth_image(seed), 0.6) for seed in (0, 1))
    thumbnails = np.stack([thumbnail(Image.composite(image, black, head)) for image in inside])
    assert np.corrcoef(thumbnails.reshape(2, -1))[0, 1] > 0.97
    assert duplicate_groups(thumbnails).tolist() == [0, 1]


def test_copies_of_copies_share_a_group():
    # Each step is small enough to match, the ends are too far apart for that.
    first, last = (thumbnail(smooth_image(seed)).astype(float) for seed in (0, 1))
    chain = np.stack([first + step * (last - first) for step in (0, 0.12, 0.24, 0.36, 0.48)]).round().astype(np.uint8)
    assert duplicate_groups(chain[[0, 4]]).tolist() == [0, 1]
    assert duplicate_groups(chain).tolist() == [0, 0, 0, 0, 0]


def test_groups_are_numbered_in_order_of_first_appearance():
    a, b, c = (smooth_image(seed) for seed in range(3))
    assert groups_of(c, a, c, b, a, ImageOps.mirror(c)) == [0, 1, 0, 2, 1, 0]


def test_constant_images_match_only_the_same_gray():
    black, gray = Image.new("L", (100, 100)), Image.new("L", (100, 100), 128)
    one_pixel = np.zeros((THUMBNAIL_SIZE, THUMBNAIL_SIZE), dtype=np.uint8)
    one_pixel[3, 5] = 1
    dot = Image.fromarray(one_pixel)
    assert groups_of(black, smooth_image(0), gray, black, dot, gray, dot) == [0, 1, 2, 0, 3, 2, 3]


def test_each_constant_gray_is_an_image_of_its_own():
    levels = np.arange(256, dtype=np.uint8)[:, None, None]
    thumbnails = np.broadcast_to(levels, (256, THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    np.testing.assert_array_equal(duplicate_groups(thumbnails), np.arange(256))


def test_no_images_no_groups():
    groups = duplicate_groups(np.zeros((0, THUMBNAIL_SIZE, THUMBNAIL_SIZE), dtype=np.uint8))
    assert groups.shape == (0,)
    assert groups.dtype == np.int64


def test_copies_far_apart_are_found():
    # More images than are compared at once.
    thumbnails = np.random.default_rng(0).integers(0, 256, (1100, THUMBNAIL_SIZE, THUMBNAIL_SIZE), dtype=np.uint8)
    thumbnails[1090] = thumbnails[5][:, ::-1]
    thumbnails[600] = thumbnails[599][::-1]
    expected = np.arange(1100)
    expected[601:] -= 1
    expected[600], expected[1090] = 599, 5
    expected[1091:] -= 1
    np.testing.assert_array_equal(duplicate_groups(thumbnails), expected)


def test_thumbnail_of_a_gradient_keeps_its_direction():
    ramp = np.tile(np.arange(192, dtype=np.uint8), (300, 1))
    small = thumbnail(Image.fromarray(ramp))
    assert small.shape == (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    assert small.dtype == np.uint8
    np.testing.assert_allclose(small[40], np.arange(96) * 2 + 0.5, atol=1)


def test_report_of_a_case_counted_by_hand():
    # Group 0: three copies of class a, one of them in the test set. Group 1: class b, both in the test set.
    # Group 2: labeled a and b, across the split. Group 3: alone, in training.
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    labels = np.array([0, 0, 0, 1, 1, 0, 1, 1])
    split = np.array(["train", "train", "test", "test", "test", "train", "test", "train"])
    report = duplicate_report(groups, labels, ["a", "b"], split)
    assert report == {
        "images": 8,
        "distinct_pictures": 4,
        "train_images": 4,
        "train_images_with_copy_in_test": 3,
        "test_images": 4,
        "test_images_with_copy_in_train": 2,
        "largest_group": 3,
        "conflicting_groups": 1,
        "classes": {
            "a": {
                "images": 4,
                "distinct_pictures": 2,
                "train_images": 3,
                "train_images_with_copy_in_test": 3,
                "test_images": 1,
                "test_images_with_copy_in_train": 1,
            },
            "b": {
                "images": 4,
                "distinct_pictures": 3,
                "train_images": 1,
                "train_images_with_copy_in_test": 0,
                "test_images": 3,
                "test_images_with_copy_in_train": 1,
            },
        },
        "conflicts": [{"group": 2, "images": [5, 6], "labels": ["a", "b"]}],
    }
    assert json.loads(json.dumps(report)) == report


def test_real_scans_are_grouped_by_the_slice_they_come_from(data_root):
    folder = data_root / "brain-tumor-mri"
    with (folder / "boxes.csv").open(newline="") as file:
        # In order of slices, so that neighboring slices of one patient are among them: the hardest to keep apart.
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["source_slice"]))[:600]
    groups = groups_of(*(Image.open(folder / row["file"]) for row in rows))
    _, slices = np.unique([int(row["source_slice"]) for row in rows], return_inverse=True)
    assert len(set(slices)) < 500
    assert groups == slices.tolist()


def test_most_meningiomas_of_the_real_test_set_have_a_copy_in_training(data_root):
    files = sorted((data_root / "brain-tumor-mri").glob("*/meningioma/*.jpg"))
    groups = groups_of(*(Image.open(file) for file in files))
    split = ["test" if file.parts[-3] == "Testing" else "train" for file in files]
    report = duplicate_report(np.array(groups), np.zeros(len(files), dtype=np.int64), ["meningioma"], split)
    assert report["images"] == 1645
    assert report["distinct_pictures"] == pytest.approx(844, abs=5)
    assert report["test_images_with_copy_in_train"] == pytest.approx(289, abs=3)


def test_command_prints_and_writes_the_report(tmp_path, capsys):
    images = {
        "Training/glioma/a.png": smooth_image(0),
        "Training/glioma/b.png": smooth_image(1),
        "Training/notumor/c.png": smooth_image(2),
        "Testing/glioma/a_mirrored.jpg": ImageOps.mirror(smooth_image(0)),
        "Testing/notumor/b_again.png": smooth_image(1),
    }
    for name, image in images.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    (tmp_path / "Training/notumor/damaged.png").write_bytes(b"not an image")

    written = [str(tmp_path / name) for name in ("r.json", "r.csv")]
    main(["--data-dir", str(tmp_path), "--json", written[0], "--csv", written[1]])
    printed = capsys.readouterr().out
    assert "Training/notumor/damaged.png" in printed
    assert "Training/glioma/b.png (glioma), Testing/notumor/b_again.png (notumor)" in printed
    report = json.loads((tmp_path / "r.json").read_text())
    counts = ("images", "distinct_pictures", "test_images", "test_images_with_copy_in_train", "conflicting_groups")
    assert [report[name] for name in counts] == [5, 3, 2, 2, 1]
    assert report["conflicts"][0]["files"] == ["Training/glioma/b.png", "Testing/notumor/b_again.png"]
    assert [entry["file"] for entry in report["left_out"]] == ["Training/notumor/damaged.png"]
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(images)
    copy = rows["Testing/glioma/a_mirrored.jpg"]
    assert (copy["label"], copy["split"]) == ("glioma", "test")
    assert copy["group"] == rows["Training/glioma/a.png"]["group"] != rows["Training/glioma/b.png"]["group"]


def test_command_says_when_the_folder_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--data-dir", str(tmp_path / "nowhere")])
    assert "There is no folder" in capsys.readouterr().err
