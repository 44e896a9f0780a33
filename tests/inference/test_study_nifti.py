"""NIfTI: slices are shown in radiological display wherever the file's axes run."""

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from brain_xai.preprocess import read_image
from brain_xai.study import UnreadableStudy, read_study
from tests.helpers.studies import head, write_nifti

SHIPPED = Path(nibabel.__file__).parent / "tests" / "data"
# The head of the helper in RAS+: x to the right, y to the front, z to the top; 40 x 48 x 12 voxels of 1 x 1 x 5 mm.
RAS = head().transpose(2, 1, 0)[::-1, ::-1]
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, -30], [0, 0, 5, 10], [0, 0, 0, 1]])


def turned(order: tuple[int, ...], flips: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the same head with its voxels stored in another order, and the affine that says so."""
    to_ras = np.zeros((4, 4))
    to_ras[3, 3] = 1
    for axis, (head_axis, flip) in enumerate(zip(order, flips, strict=True)):
        to_ras[head_axis, axis] = flip
        to_ras[head_axis, 3] = 0 if flip > 0 else RAS.shape[head_axis] - 1
    return RAS.transpose(order)[tuple(slice(None, None, flip) for flip in flips)], AFFINE @ to_ras


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_the_display_is_the_same_however_the_voxels_are_stored(order, flips, tmp_path):
    values, affine = turned(order, flips)
    study = read_study(write_nifti(tmp_path / "a.nii", values, affine))
    assert (study.plane, study.ends, study.spacing) == ("axial", ("bottom", "top"), (5, 1, 1))
    # Radiological: the first row is the front, the first column the patient's right, the first slice the bottom.
    np.testing.assert_array_equal(np.stack([study.slice(k) for k in range(12)]), head())


def test_planes(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", RAS, AFFINE)
    coronal, sagittal = read_study(path, plane="coronal"), read_study(path, plane="sagittal")
    np.testing.assert_array_equal(coronal.slice(3), RAS[::-1, 3, ::-1].T)  # rows from the top, columns from the right
    np.testing.assert_array_equal(sagittal.slice(0), RAS[39, ::-1, ::-1].T)  # begins at the right; front on the left
    assert (coronal.image_size, sagittal.image_size) == ((40, 60), (48, 60))
    with pytest.raises(ValueError, match="axial"):
        read_study(path, plane="oblique")


def test_where_a_slice_lies(tmp_path):
    study = read_study(write_nifti(tmp_path / "a.nii", *turned((2, 0, 1), (-1, 1, 1))))
    np.testing.assert_allclose(study.center(0), (-20 + 19.5, -30 + 23.5, 10))
    np.testing.assert_allclose(study.center(11), (-20 + 19.5, -30 + 23.5, 10 + 55))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_types_and_scaling(dtype, tmp_path):
    values = (RAS // 8).astype(dtype)
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "a.nii.gz")
    raw = nibabel.load(tmp_path / "a.nii.gz")
    expected = np.asanyarray(raw.dataobj)[:, :, 5][::-1, ::-1].T
    np.testing.assert_allclose(read_study(tmp_path / "a.nii.gz").slice(5), expected, rtol=1e-6)


def test_values_that_are_no_numbers_are_black(tmp_path):
    values = RAS.astype(np.float32)
    values[0], values[1] = np.nan, np.inf
    study = read_study(write_nifti(tmp_path / "a.nii", values, AFFINE))
    assert study.slice(3)[0, -1] == 0
    np.testing.assert_allclose(
        np.asarray(study.image(11))[:, :30],
        np.asarray(read_study(write_nifti(tmp_path / "b.nii", RAS, AFFINE)).image(11))[:, :30],
        atol=2,
    )


def test_four_dimensions_are_refused_unless_a_volume_is_chosen(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", np.stack([RAS, RAS + 1, RAS + 2], axis=-1), AFFINE)
    with pytest.raises(UnreadableStudy, match=r"3 volumes.*0 to 2"):
        read_study(path)
    study = read_study(path, volume=2)
    np.testing.assert_array_equal(study.slice(5), head()[5] + 2)
    assert [note.code for note in study.notes] == ["one_of_several"]
    with pytest.raises(UnreadableStudy, match="no volume 3"):
        read_study(path, volume=3)


def test_a_file_that_does_not_say_how_the_head_lies(tmp_path):
    path = write_nifti(tmp_path / "a.nii", RAS, AFFINE)
    study = read_study(changed(path, 252, bytes(4)))  # qform_code and sform_code
    assert [note.code for note in study.notes] == ["not_located"]
    assert len(study) == 12


@pytest.mark.parametrize(
    ("name", "slices", "size"), [("anatomical.nii", 25, (33, 41)), ("example_nifti2.nii.gz", 12, (32, 20))]
)
def test_files_that_nibabel_ships(name, slices, size):
    study = read_study(SHIPPED / name, volume=0)
    loaded = nibabel.as_closest_canonical(nibabel.load(SHIPPED / name))
    values = np.asanyarray(loaded.dataobj)
    values = values.reshape(*values.shape[:3], -1)[..., 0]
    assert (len(study), study.image_size) == (slices, size)
    np.testing.assert_allclose(study.slice(5), values[::-1, ::-1, 5].T, rtol=1e-5)


def test_one_slice_is_an_image(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", RAS[:, :, 5:6], AFFINE)
    assert isinstance(read_image(path), Image.Image)
    assert read_image(path).size == (40, 48)


def changed(path: Path, offset: int, content: bytes) -> Path:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)
    return path


def test_colors_are_refused(tmp_path):
    colors = np.zeros((40, 48, 12), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UnreadableStudy, match="colors"):
        read_study(write_nifti(tmp_path / "a.nii", colors, AFFINE))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated(name, share, tmp_path):
    path = write_nifti(tmp_path / name, RAS, AFFINE)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UnreadableStudy, match=r"damaged|no DICOM or NIfTI"):
        read_study(path)


LYING = {
    "30,000 voxels on each side": (40, np.array([3, 30000, 30000, 30000], "<i2").tobytes(), "2048"),
    "no voxels": (40, np.array([3, 0, 48, 12], "<i2").tobytes(), "three dimensions"),
    "negative": (40, np.array([3, -5, 48, 12], "<i2").tobytes(), "damaged|three dimensions"),
    "seven dimensions": (40, np.array([7, 40, 48, 12, 2, 2, 2, 2], "<i2").tobytes(), "three dimensions"),
    "a type that does not exist": (70, b"\x63\x63", "damaged"),
    "voxels behind the end": (108, np.array([1e9], "<f4").tobytes(), "damaged"),
    "voxels in the header": (108, np.array([4], "<f4").tobytes(), "damaged"),
    "voxels nowhere": (108, np.array([np.nan], "<f4").tobytes(), "damaged"),
}


@pytest.mark.parametrize("lie", LYING)
def test_lying_headers(lie, tmp_path):
    offset, content, words = LYING[lie]
    with pytest.raises(UnreadableStudy, match=words):
        read_study(changed(write_nifti(tmp_path / "a.nii", RAS, AFFINE), offset, content))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30])
def test_an_affine_of_nonsense_is_not_believed(value, tmp_path):
    path = write_nifti(tmp_path / "a.nii", RAS, AFFINE, qform_code=0)
    study = read_study(changed(path, 280, np.full(4, value, "<f4").tobytes()))
    assert [note.code for note in study.notes] == ["not_located"]
    assert np.isfinite(study.volume.affine).all()


def test_a_bomb_that_unpacks_to_more_than_its_header_says_is_not_unpacked(tmp_path):
    path = write_nifti(tmp_path / "a.nii", RAS, AFFINE)
    with gzip.open(tmp_path / "b.nii.gz", "wb", compresslevel=1) as file:
        file.write(path.read_bytes())
        for _ in range(64):
            file.write(bytes(2**20))
    np.testing.assert_array_equal(read_study(tmp_path / "b.nii.gz").slice(5), head()[5])
