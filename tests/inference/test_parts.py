"""Small files that would take minutes or gigabytes to open are refused at once; unusual but sound ones are read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from brain_xai.parts import MAX_PARTS, MAX_SCANS, TOO_MANY_PARTS_TEXT, check_parts
from brain_xai.preprocess import read_image
from brain_xai.unreadable import UnreadableImage
from tests.fuzz.bombs import (
    jpeg_of_scans,
    jpeg_of_segments,
    png_chunk,
    png_of_chunks,
    tags,
    tiff_of_pages,
    tiff_of_tags,
)
from tests.helpers.scans import make_scan

SCAN = make_scan("glioma", 3, side=64)


def saved(format: str, **options) -> bytes:
    buffer = io.BytesIO()
    SCAN.save(buffer, format, **options)
    return buffer.getvalue()


def read(content: bytes, tmp_path) -> Image.Image:
    (tmp_path / "scan").write_bytes(content)
    return read_image(tmp_path / "scan")


def raw_profile(exif: bytes) -> bytes:
    """Return the chunk in which ImageMagick keeps EXIF: packed hexadecimal digits."""
    return png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n8\n" + exif.hex().encode()))


TOO_MANY = {
    "chunks": png_of_chunks(MAX_PARTS),
    "segments": jpeg_of_segments(MAX_PARTS),
    "scans": jpeg_of_scans(MAX_SCANS + 1),
    "large tags": tiff_of_tags(100, 2**14),
    "large tags, big-endian": tiff_of_tags(100, 2**14, order=">"),
    "large tags of BigTIFF": tiff_of_tags(100, 2**14, big=True),
    "large tags in the EXIF of a JPEG": saved("JPEG", exif=b"Exif\0\0" + tags(100, 2**14)),
    "large tags in the EXIF of a WebP": saved("WEBP", exif=b"Exif\0\0" + tags(100, 2**14)),
    "large tags in the EXIF of a PNG": saved("PNG", exif=tags(100, 2**14)),
}


@pytest.mark.parametrize("name", TOO_MANY)
def test_a_file_of_too_many_parts_is_refused(name, tmp_path):
    with pytest.raises(UnreadableImage) as refusal:
        read(TOO_MANY[name], tmp_path)
    assert str(refusal.value) == TOO_MANY_PARTS_TEXT


def test_pages_are_not_counted(tmp_path):
    """Pillow reads all tags of every page to count them: here some seconds, with the largest file several minutes."""
    with pytest.raises(UnreadableImage, match="several images"):
        read(tiff_of_pages(20_000), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        png_of_chunks(2000),
        jpeg_of_segments(2000),
        jpeg_of_scans(MAX_SCANS),
        saved("JPEG", progressive=True, restart_marker_blocks=1),
        saved("TIFF", compression="tiff_lzw", strip_size=64),
        saved("TIFF", big_tiff=True),
        saved("PNG")[:33] + raw_profile(tags(100, 2**14)) + saved("PNG")[33:],  # which is not asked
    ],
)
def test_what_is_only_unusual_is_read(content, tmp_path):
    assert read(content, tmp_path).size == SCAN.size


def test_what_follows_the_end_of_a_jpeg_does_not_count(tmp_path):
    """Telephones append a film, in which any bytes may look like a scan."""
    assert read(saved("JPEG") + b"\xff\xda\0\2" * 100, tmp_path).size == SCAN.size


@pytest.mark.parametrize("cut", range(2, 60))
def test_beginnings_are_left_to_the_decoder(cut):
    for content in (saved("PNG"), saved("JPEG"), tiff_of_tags(3, 100), tiff_of_tags(3, 100, big=True)):
        check_parts(content[:cut])


def test_two_tags_may_share_a_value(tmp_path):
    """As the resolutions in both directions do in files of some programs."""
    content = saved("TIFF", dpi=(72, 72))
    first, second = (content.index(struct.pack("<HHL", tag, 5, 1)) + 8 for tag in (282, 283))
    shared = content[:second] + content[first : first + 4] + content[second + 4 :]
    assert read(shared, tmp_path).size == SCAN.size


def test_an_image_that_was_read_can_be_read_again(tmp_path):
    """The app does so; EXIF of noise was survived once, but not twice."""
    noise = np.random.default_rng(0).bytes(60_000)
    gray = read(saved("JPEG", exif=b"Exif\0\0" + noise), tmp_path)
    assert read_image(gray).tobytes() == gray.tobytes()
