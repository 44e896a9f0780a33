"""Sound files: drawn scans in every format that Pillow writes, and medical ones; the others by how they begin."""

import gzip
import io
import warnings
from random import Random

import nibabel
import numpy as np
from PIL import Image
from pydicom.uid import JPEG2000Lossless, RLELossless

from tests.helpers.scans import LABELS, make_scan
from tests.helpers.studies import dataset, head, to_bytes

Image.init()
# Those that the app reads come first, and as often as all others.
READ = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
WRITTEN = tuple(sorted(set(Image.SAVE) - {"BUFR", "GRIB", "HDF5", "WMF", *READ}))
MODES = ("L", "RGB", "RGBA", "P", "1", "LA", "I;16", "I", "F", "CMYK")
OPTIONS = {
    "PNG": ({}, {"optimize": True}, {"compress_level": 0}),
    "JPEG": ({}, {"progressive": True}, {"quality": 5}, {"restart_marker_blocks": 2}),
    "TIFF": tuple({"compression": name} for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
    "WEBP": ({}, {"lossless": True}),
}
# How files begin that Pillow reads and does not write, that it leaves to others, and that are no images.
BEGINNINGS = {
    "PSD": b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x40\0\0\0\x40\0\x08\0\3",
    "FITS": b"SIMPLE  =                    T" + b" " * 50 + b"BITPIX  =                    8" + b" " * 50,
    "FLI": b"\0\2\0\0\x11\xaf\2\0\x40\1\xc8\0\x08\0\3\0",
    "CUR": b"\0\0\2\0\1\0\x20\x20\0\0\1\0\1\0\xa8\0\0\0\x16\0\0\0",
    "DCX": b"\xb1\x68\xde\x3a\x0c\0\0\0\0\0\0\0",
    "GBR": b"\0\0\0\x1c\0\0\0\2\0\0\0\x40\0\0\0\x40\0\0\0\1GIMP",
    "IMT": b"width 64\nheight 64\n\x0c",
    "IPTC": b"\x1c\3\x3c\0\1\0\x1c\3\x14\0\2\0\x40",
    "MCIDAS": b"\0\0\0\0\0\0\0\4" + bytes(248),
    "MPEG": b"\0\0\1\xb3\4\0\x40\x13",
    "PCD": bytes(2048) + b"PCD_IPI",
    "PIXAR": b"\x80\xe8\0\0" + bytes(508),
    "SUN": b"\x59\xa6\x6a\x95\0\0\0\x40\0\0\0\x40\0\0\0\x08\0\0\x10\0\0\0\0\1",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(40),
    "XPM": b'/* XPM */\nstatic char *a[] = {"64 64 2 1",',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n64 64 255\n",
    "FTEX": b"FTEX" + bytes(40),
    "BUFR": b"BUFR\0\0\x40\4",
    "GRIB": b"GRIB\0\0\0\1",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "JPEG XL": b"\xff\x0a",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "JSON": b'{"a": [1, 2',
    "RAR": b"Rar!\x1a\x07\1\0",
    "7z": b"7z\xbc\xaf\x27\x1c",
    "ELF": b"\x7fELF\2\1\1\0",
    "pickle": b"\x80\4\x95\x0b\0\0\0\0\0\0\0\x8c\2os",
    "SQLite": b"SQLite format 3\0",
    "WAV": b"RIFF\x24\0\0\0WAVEfmt ",
    "MINC": b"CDF\1\0\0\0\0",
    "NRRD": b"NRRD0004\ntype: short\n",
    "Analyze": b"\x5c\1\0\0" + bytes(344),
    "nothing": b"",
    "text": "Es tut hier weh \U0001f915.".encode(),
}
SUFFIXES = (
    *(".png", ".jpg", ".tif", ".bmp", ".webp", ".gif", ".dcm", ".nii", ".nii.gz", ".zip", ".pdf", ".heic"),
    *("", ".", ".PNG", ".png.exe", ".%00.png", ".\u202egnp", "." + "x" * 300),
)


def drawn(random: Random, side: int | None = None) -> Image.Image:
    """Return a drawn scan of any size."""
    side = side or random.choice((33, 64, 100, 181, 256, 512))
    scan = make_scan(random.choice(LABELS), random.randrange(1000), side)
    return scan.resize((side, random.choice((side, side * 3 // 4 + 10))))


def as_mode(scan: Image.Image, mode: str) -> Image.Image:
    """Return a scan with other channels or bits."""
    values = np.asarray(scan)
    deep = {"I;16": np.uint16(257), "I": np.int32(100), "F": np.float32(1 / 255)}
    return Image.fromarray(values * deep[mode]) if mode in deep else scan.convert(mode)


def saved(scan: Image.Image, format: str, options: dict | None = None) -> bytes:
    """Return the file of an image, as gray if the format has no such channels."""
    for image in (scan, *(scan.convert("L").convert(mode) for mode in ("L", "RGB", "1", "P"))):
        buffer = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.save(buffer, format, **(options or {}))
            return buffer.getvalue()
        except (OSError, ValueError, KeyError, SystemError, AttributeError):
            continue
    raise ValueError(f"no image can be saved as {format}")


def image_file(random: Random, side: int | None = None) -> tuple[str, bytes]:
    """Return format and content of a file that the app should read."""
    format = random.choice(READ)
    options = random.choice(OPTIONS.get(format, ({},)))
    # Pillow's encoder corrupts memory for other modes in JPEG within TIFF.
    modes = ("L", "RGB") if options.get("compression") == "jpeg" else MODES
    return format, saved(as_mode(drawn(random, side), random.choice(modes)), format, options)


def other_file(random: Random) -> tuple[str, bytes]:
    """Return format and content of a file that the app does not read."""
    name = random.choice((*WRITTEN, *BEGINNINGS))
    if name in BEGINNINGS:
        return name, BEGINNINGS[name] + random.randbytes(random.choice((0, 10, 5000)))
    return name, saved(as_mode(drawn(random), random.choice(MODES)), name)


def dicom_file(random: Random) -> tuple[str, bytes]:
    """Return a DICOM file of one slice, or of several frames."""
    volume = head(4)
    choice = random.randrange(5)
    one = dataset(volume[random.randrange(4)], 1, (0, 0, 0), "1.2.3")
    if choice == 1:
        one.NumberOfFrames, one.PixelData = 4, volume.tobytes()
    elif choice in (2, 3):
        one.compress((RLELossless, JPEG2000Lossless)[choice - 2])
    elif choice == 4:
        one.WindowCenter, one.WindowWidth, one.RescaleSlope = 500, 800, 1.5
    return "DICOM", to_bytes(one)


def nifti_file(random: Random) -> tuple[str, bytes]:
    """Return a NIfTI file of one slice or of several, packed or not."""
    slices = random.choice((1, 1, 3))
    volume = head(4)[:slices].transpose(2, 1, 0)
    kind = random.choice((np.uint8, np.int16, np.float32, np.uint16))
    form = random.choice((nibabel.Nifti1Image, nibabel.Nifti2Image))
    content = form((volume / 5).astype(kind), np.eye(4)).to_bytes()
    return "NIfTI", gzip.compress(content, mtime=0) if random.random() < 0.5 else content
