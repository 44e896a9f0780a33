"""Refuse small files that take minutes or gigabytes to open: decoders bound an image's pixels, but not its parts."""

import re
import struct

from PIL import Image

from brain_xai.unreadable import UnreadableImage

# Segments of a JPEG and chunks of a PNG. Pillow keeps each, and takes microseconds for it.
MAX_PARTS = 20_000
# Each scan of a progressive JPEG goes over the whole image again, and none needs a byte per pixel. Programs write ten.
MAX_SCANS = 30
TOO_MANY_PARTS_TEXT = (
    "The file has far more parts than an image needs, so it is not opened. Save the slice again as PNG, then retry."
)

PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II", b"MM")
EXIF_START = b"Exif\0\0"
# What begins a JPEG's segment, also in the middle of coded pixels, where "ff 00" and "ff d0" to "ff d7" do not.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
WITHOUT_LENGTH, START_OF_SCAN, END_OF_IMAGE = (0x01, 0xD8), 0xDA, 0xD9
# Bytes per value of each type of a TIFF tag.
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


def check_parts(content: bytes) -> None:
    """Raise `UnreadableImage` for a PNG, JPEG or TIFF that has too many parts; anything else passes."""
    if content.startswith(PNG):
        _check_chunks(content)
    elif content.startswith(JPEG):
        _check_segments(content)
    elif content.startswith(TIFF):
        _check_tags(content)


def check_exif(image: Image.Image) -> None:
    """Raise `UnreadableImage` if what an image says about itself would take far more memory than the file has."""
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        _check_tags(exif.removeprefix(EXIF_START))
    # Another form of the same, in which ImageMagick keeps it. Pillow would unpack it unchecked.
    image.info.pop("Raw profile type exif", None)


def _check_chunks(content: bytes) -> None:
    position, parts = len(PNG), 0
    while position + 4 <= len(content):
        parts += 1
        _check(parts <= MAX_PARTS)
        position += 12 + int.from_bytes(content[position : position + 4])


def _check_segments(content: bytes) -> None:
    position, parts, scans = 2, 0, 0
    while (marker := MARKER.search(content, position)) and content[marker.end() - 1] != END_OF_IMAGE:
        kind, position = content[marker.end() - 1], marker.end()
        parts, scans = parts + 1, scans + (kind == START_OF_SCAN)
        _check(parts <= MAX_PARTS and scans <= MAX_SCANS)
        if kind not in WITHOUT_LENGTH:
            position += int.from_bytes(content[position : position + 2])


def _check_tags(content: bytes) -> None:
    """Refuse tags that share their bytes: each is read on its own, so that a few megabytes become gigabytes."""
    order = "<" if content.startswith(b"II") else ">"
    if 43 in content[2:4]:  # BigTIFF
        first, count, entry, inline = ("Q", 8), "Q", "HHQ8x", 8
    else:
        first, count, entry, inline = ("L", 4), "H", "HHL4x", 4
    try:
        (start,) = struct.unpack_from(order + first[0], content, first[1])
        (tags,) = struct.unpack_from(order + count, content, start)
        start += struct.calcsize(order + count)
        _check(tags <= MAX_PARTS)
        entries = content[start : start + tags * struct.calcsize(order + entry)]
        entries = entries[: len(entries) // struct.calcsize(order + entry) * struct.calcsize(order + entry)]
        sizes = [VALUE_BYTES.get(kind, 0) * values for _, kind, values in struct.iter_unpack(order + entry, entries)]
    except struct.error:  # cut off, which Pillow notices
        return
    # A size beyond the end of the file is not read. Some programs store two equal values only once.
    _check(sum(size for size in sizes if inline < size <= len(content)) <= 2 * len(content))


def _check(is_usual: bool) -> None:
    if not is_usual:
        raise UnreadableImage(TOO_MANY_PARTS_TEXT)
