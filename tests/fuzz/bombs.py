"""Small files that ask for a lot: pixels, frames, parts, profiles, tags, texts and archives."""

import gzip
import io
import struct
import zipfile
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image

SIDE = 64
LARGE = 7000  # 49 million pixels, just below the limit
PNG_START = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, color: int, packed: bytes, more: bytes = b"") -> bytes:
    """Return a PNG of any header; `more` are chunks before the pixels."""
    header = png_chunk(b"IHDR", struct.pack(">2I5B", width, height, bits, color, 0, 0, 0))
    return PNG_START + header + more + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def black_png(side: int, bits: int = 8, color: int = 0, channels: int = 1, more: bytes = b"") -> bytes:
    row = 1 + side * channels * bits // 8
    return png(side, side, bits, color, zlib.compress(bytes(side * row), 9), more)


def png_of_chunks(chunks: int) -> bytes:
    return black_png(SIDE, more=png_chunk(b"abCd", b"") * chunks)


def _jpeg(side: int = SIDE, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), 90).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def jpeg_of_segments(segments: int, kind: bytes = b"\xff\xfe") -> bytes:
    whole = _jpeg()
    return whole[:2] + (kind + b"\0\2") * segments + whole[2:]


def jpeg_of_scans(scans: int, side: int = SIDE) -> bytes:
    """Return a progressive JPEG whose last scan, of a few bytes, is repeated until there are `scans`."""
    whole = _jpeg(side, progressive=True)
    tables = whole.rfind(b"\xff\xc4", 0, whole.rfind(b"\xff\xda"))
    return whole[:-2] + whole[tables:-2] * (scans - whole.count(b"\xff\xda")) + whole[-2:]


def jpeg_of(width: int, height: int) -> bytes:
    """Return a JPEG that claims another size."""
    whole = _jpeg()
    place = whole.index(b"\xff\xc0") + 5
    return whole[:place] + struct.pack(">2H", height, width) + whole[place + 4 :]


def tags(count: int, size: int, order: str = "<", big: bool = False, pixels: int = 0) -> bytes:
    """Return a TIFF or EXIF block whose `count` tags all name the same `size` bytes; with `pixels`, of that side."""
    start = 16 if big else 8
    first, number, entry = ("Q", "Q", "HHQQ") if big else ("L", "H", "HHLL")
    image = []
    if pixels:
        needed = ((256, pixels), (257, pixels), (258, 8), (259, 1), (262, 1), (273, start), (277, 1), (278, pixels))
        image = [(tag, 4, 1, value) for tag, value in (*needed, (279, pixels * pixels))]
    entries = image + [(40000 + tag, 7, size, start) for tag in range(count)]
    version = struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42)
    block = max(size, pixels * pixels)
    head = (b"II" if order == "<" else b"MM") + version + struct.pack(order + first, start + block)
    listed = b"".join(struct.pack(order + entry, *one) for one in entries)
    return head + bytes(block) + struct.pack(order + number, len(entries)) + listed + bytes(8)


def tiff_of_tags(count: int, size: int, order: str = "<", big: bool = False) -> bytes:
    return tags(count, size, order, big, pixels=SIDE)


def tiff_of_pages(pages: int) -> bytes:
    """Return a TIFF with as many pages, all of the same pixels."""
    one = tags(0, 0, pixels=SIDE)
    (start,) = struct.unpack_from("<L", one, 4)
    page = one[start : start + 2 + 9 * 12]
    links = (start + number * (len(page) + 4) for number in range(1, pages))
    return one[:start] + b"".join(page + struct.pack("<L", link) for link in (*links, 0))


def _animated(format: str, frames: int) -> bytes:
    images = [Image.new("L", (SIDE, SIDE), number % 256) for number in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, format, save_all=True, append_images=images[1:])
    return buffer.getvalue()


def _tiff(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (LARGE, LARGE)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


def _claimed_bmp() -> bytes:
    return (
        b"BM" + struct.pack("<IHHI", 2**31, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 40000, 40000, 1, 24, *[0] * 6)
    )


def _claimed_webp() -> bytes:
    size = b"\x10\0\0\0" + (2**24 - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + size


def _noise_exif() -> bytes:
    return b"Exif\0\0" + np.random.default_rng(0).bytes(60_000)


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ZEROS = 64 * 2**20

IMAGES = {
    "pixels claimed, PNG": lambda: png(2**31 - 1, 2**31 - 1, 16, 6, b""),
    "pixels claimed, PNG of one bit": lambda: png(60_000, 60_000, 1, 0, zlib.compress(bytes(1000))),
    "pixels claimed, JPEG": lambda: jpeg_of(65_500, 65_500),
    "pixels claimed, BMP": _claimed_bmp,
    "pixels claimed, WebP": _claimed_webp,
    "49 million pixels, gray": lambda: black_png(LARGE),
    "49 million pixels, RGBA of 16 bits": lambda: black_png(LARGE, 16, 6, 4),
    "49 million pixels, gray of 16 bits": lambda: black_png(LARGE, 16),
    "49 million pixels, TIFF of floats": lambda: _tiff("F"),
    "49 million pixels, TIFF in CMYK": lambda: _tiff("CMYK"),
    "more pixels than the header says": lambda: png(SIDE, SIDE, 8, 0, zlib.compress(bytes(ZEROS))),
    "frames, GIF": lambda: _animated("GIF", 1000),
    "frames, PNG": lambda: _animated("PNG", 500),
    "frames, WebP": lambda: _animated("WEBP", 300),
    "pages, TIFF": lambda: tiff_of_pages(150_000),
    "chunks, PNG": lambda: png_of_chunks(1_500_000),
    "segments, JPEG": lambda: jpeg_of_segments(4_500_000),
    "scans, JPEG": lambda: jpeg_of_scans(100_000, 4000),
    "as many scans as allowed, JPEG": lambda: jpeg_of_scans(30, 6900),
    "tags, TIFF": lambda: tiff_of_tags(1500, 19 * 2**20),
    "tags, BigTIFF": lambda: tiff_of_tags(1500, 10 * 2**20, big=True),
    "tags, EXIF in JPEG": lambda: _jpeg(exif=b"Exif\0\0" + tags(4000, 14_000)),
    "tags, EXIF in PNG": lambda: black_png(SIDE, more=png_chunk(b"eXIf", tags(1500, 19 * 2**20))),
    "EXIF of noise": lambda: _jpeg(exif=_noise_exif()),
    "ICC profile, PNG": lambda: black_png(SIDE, more=png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(ZEROS)))),
    "ICC profile, JPEG": lambda: _jpeg(icc_profile=bytes(10 * 2**20)),
    "text, zTXt": lambda: black_png(SIDE, more=png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(ZEROS)))),
    "texts, zTXt": lambda: black_png(
        SIDE, more=png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**20 - 1))) * 1000
    ),
    "text, iTXt": lambda: black_png(
        SIDE, more=png_chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(ZEROS)))
    ),
    "gzip": lambda: gzip.compress(bytes(ZEROS)),
}  # fmt: skip
ARCHIVES = {
    "one file of 512 MB": lambda: zip_of({"scan.png": bytes(512 * 2**20)}),
    "1,000 files that are no images": lambda: zip_of({f"{number}.png": b"" for number in range(1000)}),
    "1,001 files": lambda: zip_of({f"{number}.png": b"" for number in range(1001)}),
    "20,000 files": lambda: zip_of({f"{number}.png": b"" for number in range(20_000)}),
    "a zip in a zip": lambda: zip_of({"inner.zip": zip_of({"scan.png": bytes(ZEROS)})}),
    "names that lead elsewhere": lambda: zip_of({"../../scan.png": b"x", "/etc/scan.png": b"x", "a" * 60_000: b"x"}),
}


@lru_cache(maxsize=4)
def bomb(name: str) -> bytes:
    """Return one of `IMAGES` or `ARCHIVES`."""
    return (IMAGES | ARCHIVES)[name]()
