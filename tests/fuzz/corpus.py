"""The corpus: file number n of a seed is always the same file, so that any part of it can be sent alone."""

import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import nibabel
import numpy as np
from PIL import Image

from tests.fuzz import bombs, sound
from tests.helpers.scans import make_scan
from tests.helpers.studies import dataset, head, to_bytes

KILOBYTE = 1024
EXTREMES = (0, 1, 2, 7, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
PNG_CHUNKS = (
    b"tRNS",
    b"PLTE",
    b"gAMA",
    b"iCCP",
    b"eXIf",
    b"zTXt",
    b"iTXt",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"pHYs",
    b"bKGD",
)
JPEG_SEGMENTS = (0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE)
TIFF_TAGS = (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 317, 320, 322, 323, 324, 338, 339)
DICOM_VALUES = {
    "Rows": (0, 1, 65535),
    "Columns": (0, 1, 65535),
    "BitsAllocated": (0, 1, 12, 64),
    "BitsStored": (0, 17, 64),
    "HighBit": (0, 99),
    "SamplesPerPixel": (0, 2, 3),
    "PixelRepresentation": (1, 7),
    "NumberOfFrames": (0, 2, 10**9),
    "PhotometricInterpretation": ("", "PALETTE COLOR", "RGB", "X"),
    "RescaleSlope": (0, 1e30),
    "WindowWidth": (0, -1),
    "PixelSpacing": ([0.0, 0.0], [1e30, 1.0]),
    "ImageOrientationPatient": ([0.0] * 6, [1.0] * 6),
    "Modality": ("CT", ""),
}
SURROUNDS = (b"", b"\0", b"\xff" * 9, b"\xef\xbb\xbf", b"\r\n", b"GIF89a", b"PK\3\4")


@dataclass(frozen=True)
class Sample:
    """One file to upload, and the endpoint it is sent to."""

    kind: str
    format: str
    name: str
    content: bytes
    endpoint: str = "predict"


def sample(seed: int, number: int) -> Sample:
    """Return file `number` of a corpus."""
    random = Random(f"{seed} {number}")
    kind = SLOTS[number % len(SLOTS)]
    earlier = sum(kind == other for other in SLOTS[: number % len(SLOTS)])
    ordinal = number // len(SLOTS) * SHARES[kind] + earlier
    return KINDS[kind](random, ordinal)


def damaged(random: Random, content: bytes) -> bytes:
    """Return a file with some bytes or bits changed, left out, doubled or put in."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        # Every second time in the header, where most of the meaning is.
        place = random.randrange(max(1, len(changed) if random.random() < 0.5 else min(len(changed), 200)))
        run = random.choice((1, 1, 2, 4, 50))
        match random.randrange(6):
            case 0 | 1:
                changed[place : place + 1] = bytes(
                    byte ^ 1 << random.randrange(8) for byte in changed[place : place + 1]
                )
            case 2:
                changed[place : place + run] = random.randbytes(run)
            case 3:
                del changed[place : place + run]
            case 4:
                changed[place:place] = changed[place : place + run]
            case _:
                extreme = random.choice(EXTREMES).to_bytes(4, random.choice(("little", "big")))
                changed[place : place + 4] = extreme
    return bytes(changed)


def crafted_png(random: Random) -> bytes:
    """Return a PNG of chunks with right checksums and wrong contents."""
    size = [random.choice((64, 64, 64, *EXTREMES)) for _ in range(2)]
    rest = (
        random.choice((1, 2, 4, 8, 8, 8, 16, 3)),
        random.choice((0, 0, 2, 3, 4, 6, 5)),
        0,
        0,
        random.choice((0, 0, 1)),
    )
    header = struct.pack(">2I5B", *size, *rest)
    pixels = zlib.compress(random.choice((bytes(64 * 65), random.randbytes(64 * 65), bytes(64 * 520), b"")))
    middle = [
        bombs.png_chunk(random.choice(PNG_CHUNKS), random.choice((b"", random.randbytes(20), b"x\0\0" + pixels)))
        for _ in range(random.randrange(4))
    ]
    parts = [bombs.png_chunk(b"IHDR", header), *middle, bombs.png_chunk(b"IDAT", pixels), bombs.png_chunk(b"IEND", b"")]
    if random.random() < 0.2:
        random.shuffle(parts)
    return bombs.PNG_START + b"".join(parts)


def crafted_jpeg(random: Random) -> bytes:
    """Return a JPEG with segments that do not belong there."""
    whole = sound.saved(sound.drawn(random, 64), "JPEG", {"progressive": random.random() < 0.5})
    for _ in range(random.randrange(1, 4)):
        content = random.randbytes(random.choice((0, 2, 9, 60)))
        length = random.choice((len(content) + 2, len(content) + 2, *(extreme % 2**16 for extreme in EXTREMES)))
        segment = struct.pack(">BBH", 0xFF, random.choice(JPEG_SEGMENTS), length) + content
        place = random.choice((2, 2, whole.rfind(b"\xff\xda"), len(whole) - 2))
        whole = whole[:place] + segment + whole[place:]
    return whole


def crafted_tiff(random: Random) -> bytes:
    """Return a TIFF some of whose tags have other types and values."""
    pixels = random.randbytes(64 * 64)
    tags = dict(zip((256, 257, 258, 259, 262, 273, 277, 278, 279), (64, 64, 8, 1, 1, 8, 1, 64, 4096), strict=True))
    entries = {tag: (4, 1, value) for tag, value in tags.items()}
    for _ in range(random.randrange(1, 5)):
        kind = random.choice((1, 2, 3, 3, 4, 4, 5, 7, 9, 11, 12, 13, 16, 99))
        few = random.choice((1, 1, 1, *EXTREMES))
        entries[random.choice(TIFF_TAGS)] = kind, few, random.choice((0, 1, 2, 3, 5, 6, 7, 8, 16, 32773, *EXTREMES))
    listed = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    following = random.choice((0, 0, 0, 8 + 4096, 10**6))
    return b"II*\0" + struct.pack("<IH", 8 + 4096, 0)[:4] + pixels + struct.pack("<H", len(entries)) + listed + (
        struct.pack("<I", following)
    )  # fmt: skip


def crafted_nifti(random: Random) -> bytes:
    """Return a NIfTI file with numbers in its header that make no sense."""
    content = bytearray(sound.nifti_file(Random(random.randrange(100)))[1])
    fields = {
        40: "h",
        42: "h",
        44: "h",
        46: "h",
        48: "h",
        70: "h",
        72: "h",
        76: "f",
        80: "f",
        108: "f",
        112: "f",
        116: "f",
    }
    for place in random.sample(sorted(fields), random.randrange(1, 4)):
        value = random.choice((0, -1, 1, 3, 64, 512, 32767, -32768))
        if fields[place] == "f":
            value = random.choice((value, float("nan"), float("inf"), 1e38))
        struct.pack_into("<" + fields[place], content, place, value)
    return bytes(content)


def crafted_dicom(random: Random) -> bytes:
    """Return a DICOM file with values in its header that make no sense."""
    names = random.sample(sorted(DICOM_VALUES), random.randrange(1, 4))
    tags = {name: random.choice(DICOM_VALUES[name]) for name in names}
    return to_bytes(dataset(head(4)[1], 1, (0, 0, 0), "1.2.3", **tags))


@lru_cache(maxsize=1)
def whole_files() -> list[tuple[str, bytes]]:
    """Return files of some 60 to 130 kilobytes, to be cut off at each."""
    scan = Image.fromarray(
        (np.asarray(make_scan("glioma", 1, 320)) * 0.8 + np.random.default_rng(0).integers(0, 50, (320, 320))).astype(
            "u1"
        )
    )
    image = [
        ("PNG", sound.saved(scan, "PNG")),
        ("PNG of 16 bits", sound.saved(sound.as_mode(scan.resize((256, 256)), "I;16"), "PNG")),
        ("JPEG", sound.saved(scan, "JPEG", {"quality": 98})),
        ("JPEG, progressive", sound.saved(scan, "JPEG", {"quality": 98, "progressive": True})),
        ("TIFF", sound.saved(scan, "TIFF")),
        ("TIFF, LZW", sound.saved(scan, "TIFF", {"compression": "tiff_lzw"})),
        ("TIFF, deflate", sound.saved(scan, "TIFF", {"compression": "tiff_adobe_deflate"})),
        ("BMP", sound.saved(scan, "BMP")),
        ("WEBP", sound.saved(scan, "WEBP", {"quality": 100})),
        ("WEBP, lossless", sound.saved(scan, "WEBP", {"lossless": True})),
    ]
    noisy = head(1, 200, 200)[0] + np.random.default_rng(0).integers(0, 99, (200, 200), dtype=np.uint16)
    volume = nibabel.Nifti1Image(noisy.astype(np.int16), np.eye(4)).to_bytes()
    return [
        *image,
        ("DICOM", to_bytes(dataset(noisy, 1, (0, 0, 0), "1.2.3"))),
        ("NIfTI", volume),
        ("NIfTI, packed", gzip.compress(volume)),
    ]


def _sound(random: Random, ordinal: int) -> Sample:
    format, content = sound.image_file(random)
    return Sample("sound", format, f"scan.{format.lower()}", content)


def _other(random: Random, ordinal: int) -> Sample:
    format, content = sound.other_file(random)
    return Sample("other format", format, "scan.png", content)


def _truncated(random: Random, ordinal: int) -> Sample:
    lengths = [-(-len(content) // KILOBYTE) for _, content in whole_files()]
    place = ordinal % sum(lengths)
    for (format, content), length in zip(whole_files(), lengths, strict=True):
        if place < length:
            return Sample("truncated", format, "scan", content[: place * KILOBYTE])
        place -= length
    raise AssertionError


def _flipped(random: Random, ordinal: int) -> Sample:
    format, content = sound.image_file(random, random.choice((33, 64, 100)))
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 8, 64))):
        changed[random.randrange(len(changed) if random.random() < 0.5 else min(len(changed), 300))] ^= (
            1 << random.randrange(8)
        )
    return Sample("bits flipped", format, "scan.png", bytes(changed))


def _spliced(random: Random, ordinal: int) -> Sample:
    format, content = sound.image_file(random, 64)
    content = random.choice(SURROUNDS) + damaged(random, content) + random.choice(SURROUNDS)
    return Sample("bytes changed", format, "scan.jpg", content)


def _crafted(random: Random, ordinal: int) -> Sample:
    makers = {"PNG": crafted_png, "JPEG": crafted_jpeg, "TIFF": crafted_tiff}
    format = sorted(makers)[ordinal % len(makers)]
    return Sample("header of nonsense", format, "scan", makers[format](random))


def _named(random: Random, ordinal: int) -> Sample:
    maker = random.choice((sound.image_file, sound.other_file, sound.dicom_file, sound.nifti_file))
    format, content = maker(random)
    return Sample("wrong extension", format, "scan" + random.choice(sound.SUFFIXES), content)


def _medical(random: Random, ordinal: int) -> Sample:
    endpoint = "study" if ordinal % 4 == 0 else "predict"
    if ordinal % 3 == 0:
        maker = random.choice((crafted_dicom, crafted_nifti))
        format = "DICOM" if maker is crafted_dicom else "NIfTI"
        return Sample("medical", format, "scan.dcm", maker(random), endpoint)
    format, content = random.choice((sound.dicom_file, sound.nifti_file))(random)
    if ordinal % 3 == 1:
        content = damaged(random, content)
    return Sample("medical", format, "scan", content, endpoint)


def _bomb(random: Random, ordinal: int) -> Sample:
    names = sorted(bombs.IMAGES)
    name = names[ordinal % len(names)]
    return Sample("bomb", name, "scan.png", bombs.bomb(name))


def _archive(random: Random, ordinal: int) -> Sample:
    endpoint = random.choice(("batch", "study", "predict"))
    names = sorted(bombs.ARCHIVES)
    if ordinal % 5 == 0:
        name = names[ordinal // 5 % len(names)]
        return Sample("archive", name, "scans.zip", bombs.bomb(name), endpoint)
    maker = random.choice((sound.image_file, sound.dicom_file, sound.other_file))
    files = {f"{number}.{random.choice(('png', 'dcm'))}": maker(random)[1] for number in range(random.randrange(1, 4))}
    content = bombs.zip_of(files)
    return Sample("archive", "zip", "scans.zip", content if ordinal % 5 == 1 else damaged(random, content), endpoint)


KINDS: dict[str, Callable[[Random, int], Sample]] = {
    "sound": _sound,
    "other format": _other,
    "truncated": _truncated,
    "bits flipped": _flipped,
    "bytes changed": _spliced,
    "header of nonsense": _crafted,
    "wrong extension": _named,
    "medical": _medical,
    "bomb": _bomb,
    "archive": _archive,
}
# How many of 200 files are of each kind.
SHARES = dict(zip(KINDS, (16, 16, 25, 50, 24, 28, 10, 24, 1, 6), strict=True))
SLOTS = [kind for kind, share in SHARES.items() for _ in range(share)]
Random(0).shuffle(SLOTS)
