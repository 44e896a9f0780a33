"""A small part of the corpus, and files that hypothesis makes up: each is answered, or refused with a sentence.

`python -m tests.fuzz` sends ten thousand files.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from brain_xai.preprocess import read_image
from brain_xai.unreadable import UnreadableImage
from tests.fuzz.bombs import PNG_START, png_chunk
from tests.fuzz.corpus import SHARES, SLOTS, sample, whole_files
from tests.fuzz.sending import send
from tests.helpers.caller import Caller
from tests.helpers.scans import LABELS
from tests.helpers.sentences import is_ours
from tests.helpers.served import save_tiny_checkpoint, served

FILES = 60
# Deterministic, so that a pull request fails for what it changes; the command is for what nobody has thought of.
PROPERTY = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def test_a_small_corpus_through_the_upload_of_the_app(tmp_path, capfd):
    """Without bombs, which take seconds each and have tests of their own."""
    numbers = [number for number in range(FILES) if SLOTS[number % len(SLOTS)] not in ("bomb", "archive")]
    tiny = save_tiny_checkpoint(tmp_path / "tiny", LABELS)
    with served(tiny) as (_, address), Caller(address) as caller:
        capfd.readouterr()
        outcomes = [send(caller, number, sample(1, number)) for number in numbers]
    assert [outcome for outcome in outcomes if outcome.is_defect] == []
    assert {outcome.kind for outcome in outcomes} == set(SHARES) - {"bomb", "archive"}
    assert {outcome.result for outcome in outcomes} == {"answered", "refused"}
    captured = capfd.readouterr()
    # The library for TIFF writes a line about damaged ones by itself.
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_each_number_of_a_seed_is_one_file():
    assert sample(3, 17) == sample(3, 17)
    assert sample(3, 17) != sample(4, 17)
    assert len({sample(0, number).content for number in range(20)}) > 15


def test_files_are_cut_off_at_each_kilobyte():
    """In ten thousand files there are as many cut ones as there are kilobytes."""
    kilobytes = sum(-(-len(content) // 1024) for _, content in whole_files())
    assert 10_000 // len(SLOTS) * SHARES["truncated"] >= kilobytes


@pytest.mark.parametrize(
    ("message", "is_one"),
    [
        ("The file is empty. Export the slice again, then retry.", True),
        ("The image has 10 × 90 pixels, a strip. Crop it to one slice that shows the whole head.", True),
        ("", False),
        ("Internal Server Error", False),
        ("ValueError: bad marker", False),
        ("There is no file called /tmp/x/scan.png. Choose an image of one MRI slice.", False),
    ],
)
def test_which_messages_count_as_ours(message, is_one):
    assert is_ours(message) == is_one


def is_read_or_refused(content: bytes, folder) -> None:
    (folder / "scan").write_bytes(content)
    refused, image = None, None
    try:
        image = read_image(folder / "scan")
    except UnreadableImage as refusal:
        refused = str(refusal)
    assert is_ours(refused) if image is None else image.mode == "L"


chunk = st.builds(
    png_chunk,
    st.sampled_from(
        (b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"gAMA", b"IDAT", b"xyZw")
    ),
    st.binary(max_size=40) | st.binary(max_size=40).map(lambda content: b"x\0\0" + zlib.compress(content)),
)
header = st.tuples(
    *[st.sampled_from((0, 31, 32, 40, 4096, 2**31 - 1))] * 2, *[st.integers(0, 17)] * 2, *[st.integers(0, 1)] * 3
)


@PROPERTY
@given(header=header, chunks=st.lists(chunk, max_size=4), packed=st.binary(max_size=50))
def test_any_png(header, chunks, packed, tmp_path_factory):
    pixels = zlib.compress(packed + bytes(40 * 41))
    parts = [png_chunk(b"IHDR", struct.pack(">2I5B", *header)), *chunks, png_chunk(b"IDAT", pixels)]
    is_read_or_refused(PNG_START + b"".join(parts), tmp_path_factory.mktemp("png"))


value = st.sampled_from((0, 1, 2, 3, 8, 16, 32, 64, 255, 65535, 2**31, 2**32 - 1)) | st.integers(0, 2**32 - 1)
tag = st.tuples(st.integers(254, 345), st.integers(1, 16), value, value)


@PROPERTY
@given(order=st.sampled_from("<>"), changes=st.lists(tag, max_size=5))
def test_any_tiff(order, changes, tmp_path_factory):
    values = zip((256, 257, 258, 259, 262, 273, 277, 278, 279), (64, 64, 8, 1, 1, 8, 1, 64, 4096), strict=True)
    tags = {number: (4, 1, one) for number, one in values} | {number: rest for number, *rest in changes}
    listed = b"".join(struct.pack(order + "HHII", number, *rest) for number, rest in sorted(tags.items()))
    start = struct.pack(order + "HI", 42, 8 + 4096)
    content = (b"II" if order == "<" else b"MM") + start + bytes(4096) + struct.pack(order + "H", len(tags)) + listed
    is_read_or_refused(content + bytes(4), tmp_path_factory.mktemp("tiff"))


@PROPERTY
@given(
    format=st.sampled_from(("PNG", "JPEG", "TIFF", "BMP", "WEBP")),
    place=st.floats(0, 1),
    put=st.binary(max_size=30),
    left_out=st.integers(0, 400),
)
def test_any_damage(format, place, put, left_out, tmp_path_factory):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)).save(buffer, format)
    content = buffer.getvalue()
    cut = int(place * len(content))
    is_read_or_refused(content[:cut] + put + content[cut + left_out :], tmp_path_factory.mktemp("damage"))
