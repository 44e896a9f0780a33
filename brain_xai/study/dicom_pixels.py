"""Decode the pixels of a DICOM file. What a compressed frame says of its own size is checked before it is decoded."""

import struct
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from brain_xai.parts import check_parts
from brain_xai.study.dicom_header import DAMAGED, PIXEL_TAGS, FileFacts, pydicom_quiet
from brain_xai.study.limits import MEDICAL_TEXT
from brain_xai.unreadable import UnreadableStudy

# JPEG markers that begin a frame: all of C0 to CF but the tables DHT, JPG and DAC, and F7 of JPEG-LS.
JPEG_STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
# Lossy JPEG with 8 or 12 bits, and what decodes 8 of them only.
JPEG_EXTENDED, EIGHT_BIT_PLUGINS = "1.2.840.10008.1.2.4.51", ("gdcm", "pillow")
JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"


def decoded(
    start: Callable[[], BinaryIO], facts: FileFacts, wanted: Collection[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frames of a file, one after the other.

    Args:
        start: Opens the file.
        facts: What its header says.
        wanted: The numbers of the frames.

    Yields:
        The number of a frame and its stored values, int or uint [rows, columns], high where it is to be shown bright.

    Raises:
        UnreadableStudy: The pixels are damaged, or compressed in a way that cannot be read.
    """
    pydicom = pydicom_quiet()
    try:
        with start() as file:
            dataset = pydicom.dcmread(file, specific_tags=[*PIXEL_TAGS, "PixelData"])
        yield from _decoded(dataset, facts, wanted)
    except UnreadableStudy:
        raise
    except Exception:  # on damaged bytes decoders raise nearly anything
        raise UnreadableStudy(DAMAGED) from None


def _decoded(dataset: Any, facts: FileFacts, wanted: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    from pydicom.encaps import generate_frames
    from pydicom.pixels import get_decoder, iter_pixels

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        _check_decoder(syntax, get_decoder, facts)
        for frame in generate_frames(dataset.PixelData, number_of_frames=facts.frames):
            _check_frame(frame, facts)
    numbers = sorted(wanted)
    for number, pixels in zip(numbers, iter_pixels(dataset, indices=numbers), strict=True):
        gray = pixels if facts.samples == 1 else np.asarray(Image.fromarray(_eight_bit(pixels, facts)).convert("L"))
        if gray.shape != (facts.rows, facts.columns):
            raise UnreadableStudy(DAMAGED)
        yield number, _upright(gray, facts)


def _check_decoder(syntax: Any, get_decoder: Callable[[Any], Any], facts: FileFacts) -> None:
    try:
        plugins = get_decoder(syntax).available_plugins
    except NotImplementedError:
        raise UnreadableStudy(
            "The DICOM file is compressed in a way that cannot be read here, such as video. Save it without "
            "compression, then retry."
        ) from None
    if syntax == JPEG_EXTENDED and facts.bits_stored > 8:
        plugins = tuple(plugin for plugin in plugins if plugin not in EIGHT_BIT_PLUGINS)
        if not plugins:
            raise UnreadableStudy(
                "The DICOM file is a JPEG with 12 bits, which cannot be read here. Save it without compression, then "
                "retry."
            )
    if not plugins:
        raise UnreadableStudy(f"What decodes this DICOM file's compression is not installed. {MEDICAL_TEXT}")


def _check_frame(frame: bytes, facts: FileFacts) -> None:
    """Refuse a frame that would unpack to something else than the header says: decoders believe the frame."""
    check_parts(frame)
    raw = facts.rows * facts.columns * facts.samples * facts.bits_allocated // 8
    if len(frame) > 2 * raw + 4096:
        raise UnreadableStudy(DAMAGED)
    size = _size(frame)
    if size is not None and size != (facts.rows, facts.columns):
        raise UnreadableStudy(DAMAGED)


def _size(frame: bytes) -> tuple[int, int] | None:
    """Return height and width that a JPEG or JPEG 2000 frame says it has; None for others."""
    if frame.startswith(JPEG_2000):
        right, bottom, left, top = struct.unpack(">4I", frame[8:24])
        return bottom - top, right - left
    if not frame.startswith(JPEG):
        return None
    position = 2
    while position + 9 < len(frame):
        if frame[position] != 0xFF:
            break
        marker = frame[position + 1]
        if marker in JPEG_STARTS:
            return struct.unpack(">2H", frame[position + 5 : position + 9])
        position += 1 if marker == 0xFF else 2 + struct.unpack(">H", frame[position + 2 : position + 4])[0]
    raise UnreadableStudy(DAMAGED)


def _eight_bit(pixels: np.ndarray, facts: FileFacts) -> np.ndarray:
    """Return colors [rows, columns, 3] as 8 bits."""
    return (pixels >> max(facts.bits_stored - 8, 0)).astype(np.uint8)


def _upright(gray: np.ndarray, facts: FileFacts) -> np.ndarray:
    """Return values without the bits that do not count, turned around where the lowest is shown white."""
    if facts.samples == 3:
        return gray
    values = gray.astype(np.int64)
    if facts.bits_stored < facts.bits_allocated:  # what lies above belongs to overlays of old scanners
        values &= 2**facts.bits_stored - 1
        if facts.signed:
            values -= (values >> (facts.bits_stored - 1)) << facts.bits_stored
    if facts.inverted:
        values = (-1 if facts.signed else 2**facts.bits_stored - 1) - values
    return values
