"""Hostile files: each is refused with one sentence that names nothing of them, in bounded memory and time."""

import gzip
import io
import random
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from brain_xai.study import UnreadableStudy, read_study
from brain_xai.study.limits import MAX_FILES, MAX_SLICES, MAX_UNPACKED_BYTES
from tests.helpers.studies import PATIENT, head, series_of, to_bytes, write, write_nifti, zipped

VOLUME = head(slices=3)


def refusal(path: Path, **choices) -> str:
    with pytest.raises(UnreadableStudy) as error:
        read_study(path, **choices)
    sentence = str(error.value)
    assert PATIENT not in sentence
    assert str(path.parent) not in sentence
    assert sentence.endswith(".")
    assert error.value.__cause__ is None or PATIENT not in repr(error.value.__cause__)
    return sentence


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fail if more than `limit` bytes are in use at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def claiming(tmp_path: Path, **tags) -> Path:
    return write(tmp_path / "series", series_of(VOLUME[:1], **tags))


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Rows": 65535, "Columns": 65535}, "2048 × 2048"),
        ({"NumberOfFrames": 2_000_000_000}, "1,000 slices"),
        ({"NumberOfFrames": 900, "Rows": 1024, "Columns": 1024}, "512 MB"),
        ({"Rows": 200}, "damaged"),
        ({"Rows": 0}, "damaged"),
        ({"NumberOfFrames": 7}, "damaged"),
        ({"BitsAllocated": 12}, "damaged"),
        ({"BitsStored": 60}, "damaged"),
        ({"PixelData": b""}, "damaged"),
        ({"PixelData": None}, "damaged"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
    ],
)
def test_lying_headers(tags, words, tmp_path):
    assert words in refusal(claiming(tmp_path, **tags))


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "0", "-1"])
def test_geometry_of_nonsense_is_not_believed(value, tmp_path):
    folder = write(tmp_path / "series", series_of(VOLUME))
    for file in folder.iterdir():
        raw = file.read_bytes()
        spacing = b"1.0\\1.0 "
        assert spacing in raw
        file.write_bytes(raw.replace(spacing, f"{value}\\1".encode().ljust(len(spacing))))
    study = read_study(folder)
    assert np.isfinite(study.volume.affine).all()
    assert min(study.image_size) >= 40


def compressed(tmp_path: Path, uid: str, frame: bytes, **tags) -> Path:
    one = series_of(VOLUME[:1], **tags)[0]
    one.file_meta.TransferSyntaxUID = uid
    one.PixelData = encapsulate([frame])
    one["PixelData"].is_undefined_length = True
    return write(tmp_path / "series", [one])


def test_a_frame_that_unpacks_to_more_than_the_header_says(tmp_path):
    start = b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">2H", 65500, 65500) + b"\x01\x01\x11\x00"
    assert "damaged" in refusal(compressed(tmp_path / "jpeg", JPEGBaseline8Bit, start + bytes(200)))
    size = struct.pack(">2H8IH", 41, 0, 2**31, 2**31, 0, 0, 2**31, 2**31, 0, 0, 1)
    assert "damaged" in refusal(compressed(tmp_path / "j2k", JPEG2000Lossless, b"\xff\x4f\xff\x51" + size + bytes(90)))
    many = struct.pack("<16I", 2, 64, 5_000_000, *[0] * 13) + b"\x81\x00" * 5_000_000
    assert "damaged" in refusal(compressed(tmp_path / "rle", RLELossless, many))


def test_compression_that_nothing_here_decodes(tmp_path):
    assert "video" in refusal(compressed(tmp_path, MPEG2MPML, bytes(100)))


def test_a_deflated_file_is_not_unpacked(tmp_path):
    meta = series_of(VOLUME[:1])[0]
    plain = to_bytes(meta)
    meta.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated = to_bytes(meta)
    assert len(deflated) < len(plain)
    bomb = zlib.compressobj(9, wbits=-15)
    content = bomb.compress(bytes(100 * 2**20)) + bomb.flush()
    start = deflated.index(b"1.2.840.10008.1.2.1.99") + 22
    (tmp_path / "a.dcm").write_bytes(deflated[: start + 60] + content)
    with at_most(2**24):
        assert "deflated" in refusal(tmp_path / "a.dcm")


@pytest.mark.parametrize("uid", [None, RLELossless, JPEG2000Lossless])
def test_damaged_bytes_never_crash(uid, tmp_path):
    """Cut off and overwritten at random: each is either read or refused."""
    chance = random.Random(0)
    one = series_of(VOLUME[:1])[0]
    if uid:
        one.compress(uid, generate_instance_uid=False)
    whole, path = to_bytes(one), tmp_path / "a.dcm"
    refused = 0
    for _ in range(60):
        raw = bytearray(whole[: chance.randrange(140, len(whole) + 1)] if chance.random() < 0.5 else whole)
        for _ in range(chance.randrange(12)):
            raw[chance.randrange(132, len(raw))] = chance.randrange(256)
        path.write_bytes(raw)
        try:
            read_study(path).image(0)
        except UnreadableStudy:
            refused += 1
    assert refused > 10


def test_nested_sequences_without_end(tmp_path):
    opening = struct.pack("<2H2s2xI", 0x0008, 0x1140, b"SQ", 0xFFFFFFFF) + struct.pack(
        "<2HI", 0xFFFE, 0xE000, 2**32 - 1
    )
    raw = to_bytes(series_of(VOLUME[:1])[0])
    (tmp_path / "a.dcm").write_bytes(raw[: raw.index(b"\x08\x00\x16\x00UI")] + opening * 20_000)
    refusal(tmp_path / "a.dcm")


@pytest.mark.parametrize("packed", [False, True])
def test_elements_without_end(packed, tmp_path, monkeypatch):
    """A small archive holds millions of empty ones, each of which takes microseconds."""
    monkeypatch.setattr("brain_xai.study.sources.MAX_READS", 2000)
    sound = to_bytes(series_of(head(1))[0])
    place = sound.index(b"\xe0\x7f\x10\x00")
    elements = b"".join(struct.pack("<HH2sH", 0x7001, number, b"LO", 0) for number in range(0x1000, 0x2000))
    content = sound[:place] + elements + sound[place:]
    path = zipped(tmp_path / "a.zip", {"a": content}) if packed else tmp_path / "a"
    if not packed:
        path.write_bytes(content)
    assert "far more elements" in refusal(path)
    monkeypatch.undo()
    assert len(read_study(path)) == 1


def test_too_many_files_and_slices(tmp_path):
    files = dict.fromkeys(map(str, range(MAX_FILES + 1)), b"x")
    assert f"{MAX_FILES:,} files" in refusal(zipped(tmp_path / "a.zip", files))
    one = to_bytes(series_of(np.zeros((1, 2, 2), dtype=np.uint16))[0])
    place = b"-20.0\\-30.0\\10.0"
    assert place in one
    (tmp_path / "many").mkdir()
    for number in range(MAX_SLICES + 1):
        here = one.replace(place, place[:-4] + f"{number:04d}".encode())
        (tmp_path / "many" / f"{number}").write_bytes(here)
    assert f"{MAX_SLICES:,} slices" in refusal(tmp_path / "many")


def bomb(path: Path, size: int, claimed: int, members: int) -> Path:
    """Write an archive whose members unpack to `size` bytes and say that they hold `claimed`."""
    content = bytes(128) + b"DICM" + bytes(size - 132)
    zipped(path, {str(number): content for number in range(members)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", claimed)))
    return path


def large_nifti(path: Path, dtype: type, slope: float = 1) -> bytes:
    """Return a file of 64 MB whose header says that it holds 512 x 512 x 400 values."""
    write_nifti(path, np.zeros((2, 2, 2), dtype), np.eye(4))
    header = bytearray(path.read_bytes()[:352])
    struct.pack_into("<4h", header, 40, 3, 512, 512, 400)
    struct.pack_into("<2f", header, 112, slope, 0)
    return bytes(header) + bytes(2**26)


@pytest.mark.parametrize(("dtype", "slope"), [(np.int16, 1), (np.uint8, 2), (np.float32, 1)])
@pytest.mark.parametrize("packed", ["gzip", "zip"])
def test_a_volume_larger_than_the_caller_allows_is_refused_by_its_header(packed, dtype, slope, tmp_path):
    content, path = large_nifti(tmp_path / "a.nii", dtype, slope), tmp_path / "packed"
    if packed == "gzip":
        path.write_bytes(gzip.compress(content, 1))
    else:
        zipped(path, {"a": content})
    with at_most(2**24):
        assert "160 MB" in refusal(path, max_bytes=160 * 2**20)
    assert "damaged" in refusal(path)  # by default it would be read


def test_a_series_larger_than_the_caller_allows_is_refused_by_its_headers(tmp_path):
    path = claiming(tmp_path, NumberOfFrames=100, Rows=1024, Columns=1024)
    assert "160 MB" in refusal(path, max_bytes=160 * 2**20)
    assert "damaged" in refusal(path)  # by default it would be read


def test_zip_bombs(tmp_path):
    limit = f"{MAX_UNPACKED_BYTES // 2**20} MB"
    assert limit in refusal(bomb(tmp_path / "honest.zip", 1234, 2**26, 17))
    lying = bomb(tmp_path / "lying.zip", 2**27, 2**20, 1)
    with at_most(2**24):
        assert refusal(lying)


def test_a_list_of_files_that_would_fill_the_memory_is_not_read(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a": b"b"})
    raw = bytearray(path.read_bytes())
    end = raw.rindex(b"PK\x05\x06")
    raw[end + 12 : end + 16] = struct.pack("<I", 1024 * MAX_FILES + 1)
    path.write_bytes(raw)
    assert f"{MAX_FILES:,} files" in refusal(path)


def test_archives_in_archives(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.dcm", to_bytes(series_of(VOLUME)[0]))
    assert "another archive" in refusal(zipped(tmp_path / "a.zip", {PATIENT: inner.getvalue()}))


def test_names_that_leave_the_archive_are_never_used(tmp_path):
    files = {f"../../{PATIENT}/{number}": to_bytes(one) for number, one in enumerate(series_of(VOLUME))}
    (tmp_path / "in").mkdir()
    study = read_study(zipped(tmp_path / "in" / "a.zip", files))
    assert len(study) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_a_folder_is_read_without_following_links_out_of_it(tmp_path):
    secret = write(tmp_path / "secret", series_of(VOLUME))
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "link").symlink_to(secret)
    (tmp_path / "chosen" / "file").symlink_to(next(secret.iterdir()))
    assert "no file" in refusal(tmp_path / "chosen")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04" + bytes(50), "damaged"),
        (b"PK\x05\x06" + bytes(18), "no file|no DICOM"),
        (b"\x1f\x8b" + bytes(50), "no DICOM"),
        (b"", "no DICOM"),
        (bytes(128) + b"DICM", "no image"),
        (bytes(344) + b"n+1\0" + bytes(900), "damaged|three dimensions"),
        (bytes(4) + b"n+2\0" + bytes(900), "damaged|three dimensions"),
        (bytes(344) + b"ni1\0" + bytes(900), "Half"),
    ],
)
def test_files_of_nearly_nothing(content, words, tmp_path):
    (tmp_path / "a").write_bytes(content)
    sentence = refusal(tmp_path / "a")
    assert any(word in sentence for word in words.split("|"))


def test_a_missing_file(tmp_path):
    assert "no longer there" in refusal(tmp_path / PATIENT)


def test_a_file_without_a_name(tmp_path):
    content = zipped(tmp_path / "named.zip", {"a name": b"DICM"}).read_bytes()
    (tmp_path / "nameless.zip").write_bytes(content.replace(b"a name", b"\0 name"))  # a name ends at its first zero
    with pytest.raises(UnreadableStudy, match="There is no DICOM or NIfTI file"):
        read_study(tmp_path / "nameless.zip")


@pytest.mark.parametrize("value", [1e30, 1e-40, 0.0])
def test_a_volume_of_one_value_is_black(value, tmp_path):
    volume = np.full((4, 5, 3), value, np.float32)
    image = read_study(write_nifti(tmp_path / "a.nii", volume, np.eye(4))).image(0)
    assert image.getextrema() == (0, 0)


def test_a_volume_of_tiny_values_is_shown(tmp_path):
    volume = np.linspace(0, 1e-40, 60).reshape(4, 5, 3).astype(np.float32)
    assert read_study(write_nifti(tmp_path / "a.nii", volume, np.eye(4))).image(0).getextrema()[1] > 200


def test_encrypted_and_oddly_packed_archives(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a": to_bytes(series_of(VOLUME)[0])}, zipfile.ZIP_LZMA)
    assert "unusual" in refusal(path)
    path = zipped(tmp_path / "b.zip", {"a": to_bytes(series_of(VOLUME)[0])})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    assert "password" in refusal(path)


@pytest.mark.parametrize(("library", "name"), [("pydicom", "a.dcm"), ("nibabel", "a.nii")])
def test_a_missing_library_is_named_with_how_to_install_it(library, name, tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(to_bytes(series_of(VOLUME)[0]))
    write_nifti(tmp_path / "a.nii", VOLUME, np.eye(4))
    monkeypatch.setitem(sys.modules, library, None)  # importing it now fails
    assert "pip install brain-xai[medical]" in refusal(tmp_path / name)
