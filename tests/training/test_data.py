"""Sources and splits: what is read, what is refused, and what may never be in two sets."""

import datasets
import numpy as np
import pytest
from PIL import Image, ImageOps

from brain_xai.preprocess import Preprocessing, prepare
from tests.helpers.scans import LABELS, make_scan, write_scans
from training.data.duplicate_groups import duplicate_groups
from training.data.sources import DataError, Scans, load_scans
from training.data.splits import split_scans


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def scans(folder):
    return load_scans(str(folder), size=48)


def made_up(labels, official_split):
    """Scans without images, for splitting alone."""
    n = len(labels)
    empty = np.zeros((n, 1, 1), np.uint8)
    files = [str(i) for i in range(n)]
    return Scans(empty, empty, np.array(labels), LABELS, files, np.array(official_split), [], "", np.zeros((n, 4)))


def test_training_and_testing_stay_apart(scans):
    assert scans.label_names == LABELS
    assert len(scans.files) == 4 * (12 + 4)
    for file, label, split in zip(scans.files, scans.labels, scans.official_split, strict=True):
        assert file.split("/")[:2] == ["Testing" if split == "test" else "Training", LABELS[label]]


def test_pixels_are_the_view_of_the_app(folder, scans):
    view = prepare(folder / scans.files[5], Preprocessing((48, 48), (0, 0, 0), (1, 1, 1))).view
    np.testing.assert_array_equal(scans.pixels[5], np.asarray(view)[:, :, 0])


def test_a_folder_may_be_named_by_any_path(folder, scans, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path / "here")
    for name in ("../link", "../here/../link/", str(tmp_path / "link")):
        assert load_scans(name, size=32).files == scans.files


def test_a_folder_of_class_folders_is_one_set(folder):
    scans = load_scans(str(folder / "Training"), size=32)
    assert set(scans.official_split) == {"train"}
    assert scans.label_names == LABELS
    with pytest.raises(DataError, match="--split grouped"):
        split_scans(scans, np.arange(48), "purged")


def test_bad_files_are_listed_and_skipped(tmp_path):
    root = write_scans(tmp_path, train=3, test=2)
    good = (root / "Training/glioma/glioma_000.png").read_bytes()
    (root / "Training/glioma/empty.png").write_bytes(b"")
    (root / "Training/glioma/cut.png").write_bytes(good[: len(good) // 2])
    (root / "Testing/notumor/page.jpg").write_text("<html>not found</html>")
    (root / "Testing/pituitary/really_png.jpg").write_bytes(good)
    (root / "Training/meningioma/notes.txt").write_text("from the archive")
    scans = load_scans(str(root), size=32)
    assert len(scans.files) == 4 * 5
    reasons = dict(scans.skipped)
    assert set(reasons) == {
        "Training/glioma/empty.png",
        "Training/glioma/cut.png",
        "Testing/notumor/page.jpg",
        "Testing/pituitary/really_png.jpg",
        "Training/meningioma/notes.txt",
    }
    assert "empty" in reasons["Training/glioma/empty.png"]
    assert reasons["Testing/pituitary/really_png.jpg"] == "the name says JPEG, the content is PNG"


def test_fingerprint_follows_names_labels_and_bytes(folder, scans, tmp_path):
    assert load_scans(str(folder), size=32).fingerprint == scans.fingerprint  # not the size we decode to
    other = write_scans(tmp_path)
    assert load_scans(str(other), size=32).fingerprint == scans.fingerprint  # nor where the folder lies
    make_scan("glioma", 99).save(other / "Training/glioma/glioma_000.png")
    assert load_scans(str(other), size=32).fingerprint != scans.fingerprint


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({}, "exactly one source"),
        ({"data_dir": "a", "dataset": "b/c"}, "exactly one source"),
        ({"data_dir": "no/such/folder"}, "There is no folder"),
        ({"kaggle": "owner/name"}, "pip install kagglehub"),
    ],
)
def test_wrong_sources_say_what_to_do(source, says):
    with pytest.raises(DataError, match=says):
        load_scans(**source)


def test_a_folder_without_images_says_so(tmp_path):
    with pytest.raises(DataError, match="no images in class folders"):
        load_scans(str(tmp_path))


def test_purged_removes_copies_of_test_images_and_nothing_else(tmp_path):
    root = write_scans(tmp_path, train=8, test=2)
    copy = make_scan("glioma", 8)  # the first test image of its class
    ImageOps.mirror(copy).save(root / "Training/glioma/mirrored.png")
    copy.resize((96, 96), Image.Resampling.BICUBIC).save(root / "Training/glioma/resized.jpg", quality=90)
    scans = load_scans(str(root), size=32)
    splits = split_scans(scans, duplicate_groups(scans.thumbnails), "purged")
    used = {scans.files[i] for i in np.concatenate([splits.train, splits.validation])}
    left = {file for file in scans.files if file.startswith("Training/")} - used
    assert left == {"Training/glioma/mirrored.png", "Training/glioma/resized.jpg"}
    assert len(splits.test) == 8


@pytest.mark.parametrize("split", ["purged", "official", "grouped", "fold:1/2"])
def test_splits_are_disjoint_by_group_and_repeatable(split):
    random = np.random.default_rng(0)
    groups = random.integers(0, 150, 400)
    labels = (groups % 4).tolist()
    scans = made_up(labels, np.where(random.random(400) < 0.2, "test", "train"))
    splits = split_scans(scans, groups, split, seed=3)
    again = split_scans(scans, groups, split, seed=3)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(splits, name), getattr(again, name))
    sets = {name: set(groups[indices]) for name, indices in vars(splits).items()}
    assert not sets["train"] & sets["validation"]
    if split != "official":
        assert not sets["test"] & (sets["train"] | sets["validation"])
    if split in ("grouped", "fold:1/2"):
        assert len(np.concatenate(list(vars(splits).values()))) == 400
    other = split_scans(scans, groups, split, seed=4)
    assert not np.array_equal(splits.validation, other.validation)


def test_official_keeps_the_leak_for_comparison():
    scans = made_up([0, 1, 2, 3] * 10, ["train"] * 32 + ["test"] * 8)
    groups = np.arange(40)
    groups[32] = 0  # a test image is a copy of the first training image
    splits = split_scans(scans, groups, "official")
    assert 0 in np.concatenate([splits.train, splits.validation])
    assert 0 not in split_scans(scans, groups, "purged").train


def test_images_with_two_labels_are_not_trained_on():
    scans = made_up([0, 1, 2, 3] * 10, ["train"] * 32 + ["test"] * 8)
    groups = np.arange(40)
    groups[1] = 0  # one image, labeled glioma and meningioma
    splits = split_scans(scans, groups, "purged")
    assert not {0, 1} & set(np.concatenate([splits.train, splits.validation]).tolist())


def test_the_test_sets_of_all_folds_hold_every_image_once_and_keep_groups_and_class_shares():
    labels = [0] * 40 + [1] * 40 + [2] * 20 + [3] * 20
    scans = made_up(labels, ["train"] * 120)
    groups = np.arange(120) // 2  # pairs of copies
    tests = [split_scans(scans, groups, f"fold:{fold}/5").test for fold in range(1, 6)]
    assert sorted(np.concatenate(tests).tolist()) == list(range(120))
    for test in tests:
        assert np.bincount(scans.labels[test]).tolist() == [8, 8, 4, 4]
        assert np.bincount(groups[test], minlength=60).max() == 2
        assert len(np.unique(groups[test])) == 12


@pytest.mark.parametrize("split", ["fold:0/5", "fold:6/5", "fold:1/1", "fold:x/5"])
def test_a_fold_that_does_not_exist_is_refused(split):
    with pytest.raises(DataError, match=r"no split .* fold:1/5"):
        split_scans(made_up([0, 1, 2, 3] * 10, ["train"] * 40), np.arange(40), split)


def test_an_unknown_split_is_refused():
    """Else the official split, with its leak, would stand in for it."""
    scans = made_up([0, 1, 2, 3] * 10, ["train"] * 32 + ["test"] * 8)
    with pytest.raises(DataError, match=r"no split 'purgd'\. Use one of: purged, official, grouped"):
        split_scans(scans, np.arange(40), "purgd")


def test_a_class_missing_from_a_split_is_named():
    scans = made_up([0, 1, 2, 2] * 10, ["train"] * 32 + ["test"] * 8)
    with pytest.raises(DataError, match="pituitary"):
        split_scans(scans, np.arange(40), "purged")


@pytest.mark.parametrize("split", ["purged", "grouped"])
def test_of_few_images_training_always_gets_one(split):
    """One image of class 1, two of class 2, three of class 3, and many of class 0, all in different groups."""
    labels = [0] * 20 + [1] + [2] * 2 + [3] * 3
    official = ["test"] * 4 + ["train"] * 22
    splits = split_scans(made_up(labels, official), np.arange(26), split)
    counts = {name: np.bincount(np.array(labels)[indices], minlength=4) for name, indices in vars(splits).items()}
    assert counts["train"].min() >= 1
    assert counts["train"][1] == 1, "the only image is trained on"
    expected = [0, 0, 0] if split == "purged" else [0, 1, 1]
    assert counts["test"][1:].tolist() == expected
    assert counts["validation"][1:].tolist() == [0, 1 - expected[1], 1]


def test_without_a_second_image_of_any_class_nothing_can_be_validated():
    scans = made_up([0, 1, 2, 3] * 2, ["train"] * 4 + ["test"] * 4)
    with pytest.raises(DataError, match=r"The validation split has no image\."):
        split_scans(scans, np.arange(8), "purged")


def test_a_data_set_as_the_hub_holds_it(tmp_path):
    """Parquet files with an image and a class column of any name, read through the same call as a Hub id."""
    features = datasets.Features(picture=datasets.Image(), finding=datasets.ClassLabel(names=list(LABELS)))
    for split, seeds in (("train", range(4)), ("test", range(4, 6))):
        rows = [(make_scan(label, seed), label) for seed in seeds for label in LABELS]
        pictures, findings = map(list, zip(*rows, strict=True))
        table = datasets.Dataset.from_dict({"picture": pictures, "finding": findings}, features=features)
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    scans = load_scans(dataset=str(tmp_path), size=64)
    assert scans.label_names == LABELS
    assert (scans.official_split == "test").sum() == 8
    np.testing.assert_array_equal(scans.pixels[1], np.asarray(make_scan("meningioma", 0)))


def test_a_data_set_without_classes_is_refused(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="one column of images and one of class labels; it has text"):
        load_scans(dataset=str(tmp_path))


def test_real_scans(data_root):
    """So many that worker processes decode them."""
    scans = load_scans(str(data_root / "brain-tumor-mri" / "Testing"), size=32)
    assert len(scans.files) == 1311
    assert scans.label_names == LABELS
    assert scans.skipped == []
