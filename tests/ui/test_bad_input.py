"""Whatever a visitor uploads, the answer is a sentence, on the page and through the API, and the app works on."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from brain_xai.ui import handlers
from brain_xai.ui.handlers import Question
from tests.helpers.scans import make_scan
from tests.helpers.served import served, upload

SCAN = make_scan("meningioma", 1, side=120)


@pytest.fixture(scope="module")
def client(folder, tiny):
    with served(tiny) as (_, address):
        yield Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def animated(format: str) -> bytes:
    return encoded(SCAN, format, save_all=True, append_images=[SCAN.rotate(20)])


def png_that_claims(side: int) -> bytes:
    """The start of a square one-bit PNG: all that is read before it is decoded."""
    header = b"IHDR" + struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    )


# name: (file name, content, what is wrong, what to do)
BAD = {
    "empty": ("scan.png", b"", "empty", "Export the slice again"),
    "noise": ("scan.jpg", random.Random(0).randbytes(5000), "not an image", "Save one slice as PNG"),
    "text": ("scan.png", b"It hurts here.", "not an image", "Save one slice as PNG"),
    "truncated png": ("scan.png", encoded(SCAN, "PNG")[:900], "incomplete", "download it again"),
    "truncated jpeg": ("scan.jpg", encoded(SCAN, "JPEG")[:900], "incomplete", "download it again"),
    "svg": ("scan.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG", "Save one slice as PNG"),
    "svg in disguise": ("scan.png", b"<?xml version='1.0'?><svg/>", "SVG", "Save one slice as PNG"),
    "dicom": ("scan.dcm", bytes(128) + b"DICM" + bytes(500), "DICOM", "Save one slice as PNG"),
    "animated gif": ("scan.gif", animated("GIF"), "GIF", "Save one slice as PNG"),
    "animated png": ("scan.png", animated("PNG"), "animation", "Save one slice as PNG"),
    "animated webp": ("scan.webp", animated("WEBP"), "animation", "Save one slice as PNG"),
    "stack of slices": ("scan.tif", animated("TIFF"), "several images", "Save one slice as PNG"),
    "1 pixel wide": ("scan.png", encoded(Image.new("L", (1, 300)), "PNG"), "1 × 300", "full size"),
    "20,000 pixels square": ("scan.png", png_that_claims(20_000), "50 million pixels", "Scale it down"),
    "50 MB": ("scan.bmp", b"BM" + bytes(50 * 2**20), "50 MB", "make the image smaller"),
    "no name to speak of": ("..png", b"", "empty", "Export the slice again"),
}


@pytest.fixture(params=BAD)
def bad(request, tmp_path) -> tuple[Path, str, str]:
    name, content, wrong, to_do = BAD[request.param]
    (tmp_path / name).write_bytes(content)
    return tmp_path / name, wrong, to_do


@pytest.mark.parametrize("endpoint", ["/predict", "/explain"])
def test_through_the_api(endpoint, bad, client, capfd):
    file, wrong, to_do = bad
    with pytest.raises(AppError) as error:
        client.predict(image=handle_file(file), api_name=endpoint)
    sentence = error.value.message
    assert wrong in sentence
    assert to_do in sentence
    assert "/" not in sentence  # no path
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""  # no stack trace in the log either


def test_on_the_page(bad, client):
    file, wrong, to_do = bad
    update = handlers.on_new_image(Question(upload(file)))
    assert wrong in update.notice
    assert to_do in update.notice
    assert update.answer["visible"] is False


@pytest.mark.parametrize("endpoint", ["/predict", "/explain"])
def test_no_image_at_all(endpoint, client):
    with pytest.raises(AppError, match="There is no image yet"):
        client.predict(image=None, api_name=endpoint)


def test_a_file_of_the_server_is_out_of_reach(client):
    stolen = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}, "is_stream": True}
    with pytest.raises(AppError) as error:
        client.predict(image={**stolen, "url": "file:///etc/passwd"}, api_name="/predict")
    assert "root" not in str(error.value)


def test_the_app_works_on_after_it(client, tmp_path):
    SCAN.save(tmp_path / "scan.png")
    for name in ("20,000 pixels square", "truncated png", "stack of slices"):
        file, content, _, _ = BAD[name]
        (tmp_path / f"bad-{file}").write_bytes(content)
        with pytest.raises(AppError):
            client.predict(image=handle_file(tmp_path / f"bad-{file}"), api_name="/predict")
        answer = client.predict(image=handle_file(tmp_path / "scan.png"), api_name="/predict")
        assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_sixteen_bit_is_not_clipped_to_white(client, tmp_path):
    """Gradio's own decoder would turn every value above 255 white."""
    deep = np.asarray(SCAN).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    SCAN.save(tmp_path / "scan.png")
    answers = [
        client.predict(image=handle_file(tmp_path / name), api_name="/predict") for name in ("scan.png", "deep.png")
    ]
    assert answers[0]["probabilities"] == pytest.approx(answers[1]["probabilities"], abs=0.01)


def test_a_rotated_photo_is_read_upright(client, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    wide = SCAN.resize((160, 100))
    wide.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.jpg", exif=exif)
    answer = client.predict(image=handle_file(tmp_path / "photo.jpg"), api_name="/predict")
    assert (answer["input"]["width"], answer["input"]["height"]) == (160, 100)
