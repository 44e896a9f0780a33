"""Whatever a visitor uploads, the answer is a sentence, on the page and through the API, and the app works on."""

import base64
import io
import json
import random
import socket
import struct
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from brain_xai.ui import handlers
from brain_xai.ui.session import Question, Session
from tests.helpers.scans import make_scan
from tests.helpers.served import served, upload

SCAN = make_scan("meningioma", 1, side=120)


@pytest.fixture(scope="module")
def address(tiny):
    with served(tiny) as (_, address):
        yield address


@pytest.fixture(scope="module")
def client(folder, address):
    return Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)


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
    [update] = handlers.on_upload(Question(Session()), upload(file))
    assert wrong in update.notice
    assert to_do in update.notice
    assert update.result["visible"] is False


@pytest.mark.parametrize("endpoint", ["/predict", "/explain"])
def test_no_image_at_all(endpoint, client):
    with pytest.raises(AppError, match="There is no image yet"):
        client.predict(image=None, api_name=endpoint)


META = {"_type": "gradio.FileData"}


def call(address: str, name: str, data: object) -> str:
    """Call an endpoint as curl does, and return what it prints."""
    started = httpx.post(f"{address}gradio_api/call/{name}", json={"data": data})
    if started.status_code != 200:
        return started.text
    return httpx.get(f"{address}gradio_api/call/{name}/{started.json()['event_id']}").text


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ({"path": "/etc/passwd", "meta": META, "is_stream": True, "url": "file:///etc/passwd"}, "cannot be read"),
        ({"path": "/etc/passwd"}, "cannot be read"),
        ("/etc/passwd", "cannot be read"),
        ({"url": "file:///etc/passwd"}, "cannot be read"),
        ("http://localhost/gradio_api/file=/etc/passwd", "cannot be read"),
        ("http://localhost/gradio_api/file=http://{listener}/", "opens no other address"),
        ({"path": "http://{listener}/scan.png", "meta": META}, "opens no other address"),
        ({"url": "http://{listener}/scan.png", "meta": META}, "opens no other address"),
        ("HTTP://{listener}/scan.png", "opens no other address"),
        ({"path": "data:image/png,%89PNG", "meta": META}, "data URL cannot be read"),
        ("data:image/png;base64,@@@@", "data URL cannot be read"),
        ("data:image/png;base64,AAAA", "not an image"),
        ("data:image/png;base64," + "A" * (28 * 2**20), "more than 20 MB"),
        ("iVBORw0KGgo=", "cannot be read"),
        (True, "cannot be read"),
        ([{"path": "/etc/passwd"}], "cannot be read"),
    ],
)
def test_neither_files_of_the_server_nor_other_addresses_are_read(image, sentence, address, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        text = json.dumps(image).replace("{listener}", f"127.0.0.1:{listener.getsockname()[1]}")
        answer = call(address, "predict", [json.loads(text)])
        with pytest.raises(BlockingIOError):  # nobody came
            listener.accept()
    assert sentence in answer
    assert "root" not in answer
    assert "/etc" not in answer


@pytest.mark.parametrize("form", ["text", "url", "path", "address on this server", "no meta"])
def test_an_image_may_be_sent_in_other_forms(form, address, client, tmp_path):
    SCAN.save(tmp_path / "scan.png")
    expected = client.predict(image=handle_file(tmp_path / "scan.png"), api_name="/predict")
    [path] = httpx.post(f"{address}gradio_api/upload", files={"files": (tmp_path / "scan.png").read_bytes()}).json()
    data_url = f"data:image/png;base64,{base64.b64encode((tmp_path / 'scan.png').read_bytes()).decode()}"
    image = {
        "text": data_url,
        "url": {"url": data_url},
        "path": {"path": data_url, "meta": META},
        "address on this server": {"path": f"{address}gradio_api/file={path}", "meta": META},
        "no meta": {"path": path},
    }[form]
    answer = call(address, "predict", [image])
    assert json.loads(answer.partition("data: ")[2])[0]["probabilities"] == expected["probabilities"]


# What a caller may send instead of a list of arguments, and what no argument is meant to be.
ODD = [None, -1, "x", [[]], {"path": ["/etc/passwd"]}, {"a": {"url": "file:///etc/passwd"}}]


@pytest.mark.parametrize("name", ["predict", "explain", "batch", "methods", "show", "nothing"])
def test_no_call_shows_a_traceback_or_a_path(name, address, tiny):
    private = ['File "', "site-packages", "Traceback", "/etc", '"error": null', '"error":null', str(Path.cwd())]
    answers = [call(address, name, data) for data in [*ODD, *([value] for value in ODD), [None] * 20]]
    v2 = f"{address}gradio_api/call/v2/{name}"
    answers += [httpx.post(v2, json=body).text for body in ({"bogus": 1}, [], None)]
    answers += [httpx.post(f"{address}gradio_api/run/{name}", json={"data": data}).text for data in ([], ODD)]
    for answer in answers:
        assert answer
        assert not [word for word in private if word in answer.replace(tiny, "")], answer
    if name != "methods":  # which needs no argument
        assert all('"error"' in answer or "event_id" in answer for answer in answers)


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
