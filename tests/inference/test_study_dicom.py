"""DICOM: whatever the files, the slices come out in the order, place and brightness that the files mean."""

import io
import logging
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
    generate_uid,
)

from brain_xai.preprocess import read_image
from brain_xai.study import SeveralSeries, UnreadableStudy, read_study
from tests.helpers.studies import PATIENT, dataset, head, series_of, to_bytes, write, zipped

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return head()


def stacked(study) -> np.ndarray:
    return np.stack([study.slice(index) for index in range(len(study))])


def test_slices_are_sorted_by_position_not_by_name_nor_number(volume, tmp_path):
    series = series_of(volume)
    for number, one in enumerate(series):
        one.InstanceNumber = (number * 5) % len(series)
    study = read_study(write(tmp_path / "series", series))
    np.testing.assert_array_equal(stacked(study), volume)
    assert (study.kind, study.plane, study.ends, study.spacing) == ("DICOM", "axial", ("bottom", "top"), (5, 1, 1))
    assert study.notes == ()


def test_without_positions_the_numbers_sort_and_the_user_is_told(volume, tmp_path):
    series = series_of(volume, ImagePositionPatient=None, ImageOrientationPatient=None)
    study = read_study(write(tmp_path / "series", series))
    np.testing.assert_array_equal(stacked(study), volume)
    assert (study.plane, [note.code for note in study.notes]) == ("unknown", ["not_sorted_by_position"])


def test_the_affine_puts_a_voxel_where_the_file_says(volume, tmp_path):
    """Column 7, row 11 of slice 3 by hand: x = -20 + 7, y = -30 + 11, z = 10 + 15 in DICOM; right and front flip."""
    study = read_study(write(tmp_path / "series", series_of(volume)))
    np.testing.assert_allclose(study.volume.affine @ (7, 11, 3, 1), (13, 19, 25, 1))
    assert study.volume.values[7, 11, 3] == volume[3, 11, 7]


def test_an_oblique_sagittal_series(volume, tmp_path):
    """Rows run from front to back, columns from top to bottom, slices from the patient's left to the right."""
    tilt = np.deg2rad(20)
    along, down = np.array([np.sin(tilt), np.cos(tilt), 0]), np.array([0, 0, -1.0])
    normal = np.cross(along, down)
    series = series_of(volume, ImageOrientationPatient=[*along, *down], PixelSpacing=[2.0, 1.5])
    for number, one in enumerate(series):
        one.ImagePositionPatient = [round(float(part), 6) for part in 4 * number * normal]
    study = read_study(write(tmp_path / "series", series))
    assert study.plane == "sagittal"
    np.testing.assert_allclose(study.spacing, (4, 2, 1.5), rtol=1e-4)
    in_dicom = 4 * 3 * normal + 7 * 1.5 * along + 11 * 2 * down
    np.testing.assert_allclose(study.volume.affine @ (7, 11, 3, 1), (*(in_dicom * (-1, -1, 1)), 1), atol=1e-4)
    # The normal points to the patient's right here, and a sagittal study begins at the right.
    assert normal[0] < 0
    np.testing.assert_array_equal(stacked(study), volume[::-1])


def test_other_planes_of_a_series_have_square_pixels(volume, tmp_path):
    study = read_study(write(tmp_path / "series", series_of(volume)), plane="coronal")
    assert len(study) == 48
    assert study.slice(47).shape == (12, 40)
    assert study.image_size == (40, 60)  # 12 slices of 5 mm
    # The first slice is at the back, that is the last row; top slices come first; columns stay.
    np.testing.assert_array_equal(study.slice(0), volume[::-1, 47, :])


def compressed(volume: np.ndarray, uid: str) -> list[Dataset]:
    series = series_of(volume)
    for one in series:
        one.compress(uid, generate_instance_uid=False, **({"j2k_cr": [2]} if uid == JPEG2000 else {}))
    return series


@pytest.mark.parametrize(("uid", "tolerance"), [(RLELossless, 0), (JPEG2000Lossless, 0), (JPEG2000, 20)])
def test_compressed_series(uid, tolerance, volume, tmp_path):
    study = read_study(write(tmp_path / "series", compressed(volume, uid)))
    np.testing.assert_allclose(stacked(study), volume, atol=tolerance)


def test_uncompressed_in_other_orders_of_bytes(volume, tmp_path):
    series = series_of(volume)
    for one in series:
        one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_array_equal(stacked(read_study(write(tmp_path / "series", series))), volume)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_files_that_pydicom_ships_show_the_same_scan(name):
    expected = read_study(SHIPPED / "MR_small.dcm").slice(0)
    assert expected.std() > 100
    np.testing.assert_array_equal(read_study(SHIPPED / name).slice(0), expected)


@pytest.mark.parametrize(
    "name", ["SC_rgb_jls_lossy_line.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmd.dcm", "examples_overlay.dcm"]
)
def test_other_files_that_pydicom_ships(name):
    image = read_image(SHIPPED / name)
    assert image.mode == "L"
    assert image.getextrema() == (0, 255)


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless"])
def test_lossless_jpeg(syntax, tmp_path):
    gdcm = pytest.importorskip("gdcm")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(SHIPPED / "MR_small.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID.is_compressed
    expected = read_study(SHIPPED / "MR_small.dcm").slice(0)
    np.testing.assert_array_equal(read_study(tmp_path / "a.dcm").slice(0), expected)


def test_lossy_jpeg_of_8_bits(tmp_path):
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "JPEG", quality=98)
    one = series_of(ramp[None])[0]
    one.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    one.PixelData = encapsulate([buffer.getvalue()])
    np.testing.assert_allclose(read_study(write(tmp_path / "a", [one])).slice(0), ramp, atol=3)


def test_jpeg_of_12_bits_is_refused_with_its_name_where_nothing_decodes_it(monkeypatch):
    """pylibjpeg-libjpeg would, but its license is GPL v3."""
    monkeypatch.delitem(get_decoder(JPEGExtended12Bit)._available, "pylibjpeg", raising=False)
    with pytest.raises(UnreadableStudy, match="JPEG with 12 bits"):
        read_study(SHIPPED / "JPGExtended.dcm")


def multiframe(volume: np.ndarray) -> Dataset:
    """An enhanced file: frames in reverse order, geometry and scaling in the sequences of the frames."""
    one = series_of(volume[::-1])[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(one, keyword)
    one.NumberOfFrames, one.PixelData = len(volume), volume[::-1].tobytes()
    shared, measures, lies = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 3.0
    lies.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [lies]
    one.SharedFunctionalGroupsSequence = [shared]
    one.PerFrameFunctionalGroupsSequence = []
    for number in range(len(volume)):
        group, place, scaling = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 3.0 * (len(volume) - number)]
        scaling.RescaleSlope, scaling.RescaleIntercept = 2, -100
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [scaling]
        one.PerFrameFunctionalGroupsSequence.append(group)
    return one


def test_a_file_of_many_frames(volume, tmp_path):
    study = read_study(write(tmp_path / "series", [multiframe(volume)]))
    np.testing.assert_array_equal(stacked(study), 2.0 * volume - 100)
    assert (study.plane, study.spacing) == ("axial", (3, 0.5, 0.5))


def test_an_old_file_of_many_frames_without_their_positions(volume, tmp_path):
    one = series_of(volume, NumberOfFrames=len(volume), PixelData=volume.tobytes())[0]
    study = read_study(write(tmp_path / "series", [one]))
    np.testing.assert_array_equal(stacked(study), volume)
    assert [note.code for note in study.notes] == ["not_sorted_by_position"]


def test_white_is_zero(volume, tmp_path):
    inverted = series_of(65535 - volume, PhotometricInterpretation="MONOCHROME1")
    upright = read_study(write(tmp_path / "upright", series_of(volume)))
    study = read_study(write(tmp_path / "inverted", inverted))
    np.testing.assert_array_equal(stacked(study), volume)
    assert study.image(5) == upright.image(5)


def test_the_window_of_the_file(tmp_path):
    """Center 40.5, width 81 shows 0 black and 80 white (PS3.3 C.11.2.1.2), also where the lowest value is white."""
    ramp = np.tile(np.arange(0, 120, dtype=np.uint16), (40, 1))
    window = {"WindowCenter": 40.5, "WindowWidth": 81}
    shown = np.asarray(read_study(write(tmp_path / "a", series_of(ramp[None], **window))).image(0))[0]
    assert [shown[0], shown[40], shown[80], shown[119]] == [0, 128, 255, 255]
    inverted = series_of(ramp[None], PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11, **window)
    turned = np.asarray(read_study(write(tmp_path / "b", inverted)).image(0))[0]
    np.testing.assert_allclose(turned.astype(int), 255 - shown.astype(int), atol=1)


def test_a_window_that_shows_nothing_is_ignored(volume, tmp_path):
    series = series_of(volume, WindowCenter=30000, WindowWidth=2)
    assert read_study(write(tmp_path / "a", series)).image(5) == read_study(
        write(tmp_path / "b", series_of(volume))
    ).image(5)


def test_signed_values_and_bits_of_overlays(tmp_path):
    values = np.array([[-2048, -1], [0, 2047]], dtype=np.int16).repeat(20, 0).repeat(20, 1)
    stored = (values & 0x0FFF | 0x4000).astype(np.int16)
    series = series_of(stored[None], BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_study(write(tmp_path / "a", series)).slice(0), values)


def test_mixed_series_are_refused_with_the_choice_of_one(volume, tmp_path):
    folder = write(tmp_path / "mixed", series_of(volume))
    write(folder / "other", series_of(volume[:3, :20]))
    with pytest.raises(SeveralSeries, match=r"2 series: 1 \(12 slices, axial\), 2 \(3 slices, axial\)") as refusal:
        read_study(folder)
    assert [(one.number, one.slices, one.size) for one in refusal.value.series] == [(1, 12, (40, 48)), (2, 3, (40, 20))]
    assert len(read_study(folder, series=2)) == 3
    with pytest.raises(UnreadableStudy, match="no series 3"):
        read_study(folder, series=3)


def test_two_echoes_of_each_slice_are_two_series(volume, tmp_path):
    first = series_of(volume)
    second = series_of(volume + 1, SeriesInstanceUID=first[0].SeriesInstanceUID)
    for number, one in enumerate(second):
        one.InstanceNumber = 100 + number
    folder = write(tmp_path / "echoes", first + second)
    with pytest.raises(SeveralSeries, match="2 series"):
        read_study(folder)
    np.testing.assert_array_equal(stacked(read_study(folder, series=2)), volume + 1)


def test_the_same_files_twice_are_one_series(volume, tmp_path):
    series = series_of(volume)
    folder = write(tmp_path / "a", series)
    write(folder / "copy", series)
    assert len(read_study(folder)) == len(volume)


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned_in"),
        ({"Modality": "CT"}, "not_mr"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "other_kind"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "other_kind"),
        ({"ScanningSequence": "EP"}, "other_kind"),
        ({"ScanningSequence": ["SE", "EP"]}, "other_kind"),
    ],
)
def test_what_the_tags_warn_about(tags, code, volume, tmp_path):
    study = read_study(write(tmp_path / "series", series_of(volume, **tags)))
    assert [note.code for note in study.notes] == [code]


def test_usual_kinds_of_mr_are_not_warned_about(volume, tmp_path):
    usual = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"], "ScanningSequence": ["SE", "IR"]}
    assert read_study(write(tmp_path / "series", series_of(volume, **usual))).notes == ()


@pytest.mark.parametrize(("degrees", "codes"), [(20, []), (40, ["oblique"])])
def test_slices_between_the_planes_are_told(degrees, codes, volume, tmp_path):
    tilt = np.deg2rad(degrees)
    down = np.array([0, np.cos(tilt), np.sin(tilt)])
    normal = np.cross((1, 0, 0), down)
    series = series_of(volume, ImageOrientationPatient=[1, 0, 0, *(round(float(part), 6) for part in down)])
    for number, one in enumerate(series):
        one.ImagePositionPatient = [round(float(part), 6) for part in 5 * number * normal]
    assert [note.code for note in read_study(write(tmp_path / "series", series)).notes] == codes


def test_a_plane_across_thick_slices_is_told(volume, tmp_path):
    folder = write(tmp_path / "series", series_of(volume))
    assert read_study(folder, plane="axial").notes == ()
    assert [note.code for note in read_study(folder, plane="coronal").notes] == ["across_slices"]


def test_missing_slices_and_broken_files_are_told(volume, tmp_path):
    series = series_of(volume)
    del series[5]
    folder = write(tmp_path / "series", series)
    write(folder / "broken", series_of(volume, BitsAllocated=12)[:2])
    study = read_study(folder)
    assert [note.code for note in study.notes] == ["uneven_slices", "unreadable_files"]


def test_zipped_and_a_list_of_files(volume, tmp_path):
    folder = write(tmp_path / "series", series_of(volume))
    files = {f"{PATIENT}/{file.name}": file.read_bytes() for file in folder.iterdir()}
    archive = zipped(tmp_path / "a.bin", {**files, "__MACOSX/._x": b"rubbish", "README.TXT": b"a viewer"})
    np.testing.assert_array_equal(stacked(read_study(archive)), volume)
    np.testing.assert_array_equal(stacked(read_study(list(folder.iterdir()))), volume)


def test_one_slice_is_an_image_like_any_other(volume, tmp_path):
    file = tmp_path / "IM0001"
    file.write_bytes(to_bytes(series_of(volume)[4]))
    image = read_image(file)
    assert (image.mode, image.size) == ("L", (40, 48))
    assert np.corrcoef(np.asarray(image).ravel(), volume[4].ravel())[0, 1] > 0.99
    file.write_bytes(to_bytes(multiframe(volume)))
    with pytest.raises(UnreadableStudy, match="12 slices"):
        read_image(file)


def test_nothing_is_logged_whatever_the_tags_hold(volume, tmp_path, caplog, capfd):
    strange = dataset(volume[0], 1, (0, 0, 0), generate_uid())
    raw = to_bytes(strange).replace(b"1.0\\1.0 ", b"DOE\\JANE")
    (tmp_path / "a.dcm").write_bytes(raw)
    assert b"DOE\\JANE" in raw
    with caplog.at_level(logging.DEBUG):
        assert isinstance(read_study(tmp_path / "a.dcm").image(0), Image.Image)
    captured = capfd.readouterr()
    assert "JANE" not in caplog.text + captured.out + captured.err
