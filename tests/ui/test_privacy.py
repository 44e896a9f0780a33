"""Nothing is kept, counted, logged, or published, and nothing happens before the app is started."""

import asyncio
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file

from brain_xai.ui import api
from brain_xai.ui.page import build_page
from brain_xai.ui.privacy import KEPT_MINUTES, sweep
from brain_xai.ui.serving import launch
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import served, upload, wait_until

ROOT = Path(__file__).parents[2]
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "1000000"}


@pytest.fixture(scope="module")
def app(tiny):
    """The page with a case of its own."""
    (Path(tiny) / "examples").mkdir()
    make_scan("pituitary", 5).save(Path(tiny) / "examples" / "pituitary.png")
    (Path(tiny) / "examples" / "cases.csv").write_text("file,label\npituitary.png,pituitary\n")
    with served(tiny) as page_and_address:
        yield page_and_address


@pytest.fixture(scope="module")
def client(address, folder) -> Client:
    return Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)


def call(address: str, data: list) -> str:
    """Call /predict as curl does, and return what it prints."""
    job = httpx.post(f"{address}gradio_api/call/predict", json={"data": data}).json()["event_id"]
    return httpx.get(f"{address}gradio_api/call/predict/{job}").text


def test_gradios_own_records_are_off(page, address):
    assert page.delete_cache == (60, KEPT_MINUTES * 60)
    assert page.analytics_enabled is False
    assert page.run_history is False
    assert page.enable_monitoring is False
    assert page.show_error is False
    assert page.max_file_size == 64 * 2**20
    assert httpx.get(f"{address}monitoring").status_code == 404
    assert httpx.get(f"{address}monitoring/summary").status_code == 404
    assert httpx.get(f"{address}gradio_api/runs").status_code == 404
    assert all(block.time_to_live for block in page.blocks.values() if isinstance(block, gr.State))


def test_the_page_loads_nothing_from_other_servers(address):
    for styles in (httpx.get(f"{address}theme.css").text, httpx.get(f"{address}config").json()["css"]):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", styles)


def test_nothing_can_be_shared_with_a_public_site(page):
    """Gradio's media offer to share unless their buttons are named."""
    components = page.get_config_file()["components"]
    media = [block["props"]["buttons"] for block in components if block["type"] in ("gallery", "image")]
    assert media
    assert all(buttons is not None and "share" not in buttons for buttons in media)
    assert not [block for block in components if "share" in (block["props"].get("buttons") or ())]


def test_the_page_offers_the_cases_of_its_checkpoints(page):
    [strip] = [block for block in page.blocks.values() if block.elem_id == "cases"]
    assert strip.value.count("<button") == 1


def test_after_sweeping_only_the_examples_are_left_and_the_app_works_on(page, client, address, scan):
    client.predict(image=handle_file(scan), api_name="/explain")
    with httpx.Client() as interrupted, pytest.raises(RuntimeError, match="gone"):
        interrupted.post(f"{address}gradio_api/upload", content=interrupted_body(), headers=MULTIPART)
    folder = Path(page.app.uploaded_file_dir)
    assert wait_until(lambda: [path for path in folder.iterdir() if path.is_file()])
    examples = {file for block in page.blocks.values() for file in block.keep_in_cache}
    assert len(examples) == 1
    sweep(folder, examples, seconds=3600)
    assert list(folder.rglob("scan.png"))  # too young
    sweep(folder, examples, seconds=-1)
    assert {str(path) for path in folder.rglob("*") if path.is_file()} == examples
    assert {str(path) for path in folder.iterdir()} == {str(Path(file).parent) for file in examples}
    assert client.predict(image=handle_file(scan), api_name="/predict")["label"] in LABELS


def interrupted_body():
    """The body of an upload that ends in the middle."""
    yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="secret.png"\r\n\r\n' + bytes(100_000)
    raise RuntimeError("gone")


def test_the_app_sweeps_by_itself(tiny, scan, monkeypatch):
    monkeypatch.setattr("brain_xai.ui.privacy.SWEEP_SECONDS", 0.05)
    monkeypatch.setattr("brain_xai.ui.privacy.KEPT_MINUTES", 0)
    with served(tiny) as (page, address):
        [path] = httpx.post(f"{address}gradio_api/upload", files={"files": scan.read_bytes()}).json()
        assert Path(path).is_relative_to(page.app.uploaded_file_dir)
        assert wait_until(lambda: not Path(path).parent.exists())
        assert len(list(Path(page.app.uploaded_file_dir).rglob("*.png"))) >= 1


def test_a_clock_that_is_set_back_keeps_no_file(tmp_path, monkeypatch):
    """A file of yesterday's tomorrow goes at once; a clock that runs a little behind that of the disk does nothing."""
    (tmp_path / "scan.png").write_bytes(b"x")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 5)
    sweep(tmp_path, (), 60 * KEPT_MINUTES)
    assert (tmp_path / "scan.png").exists()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    sweep(tmp_path, (), 60 * KEPT_MINUTES)
    assert not (tmp_path / "scan.png").exists()


def test_an_image_deleted_in_the_meantime_is_asked_for_again(app, tmp_path):
    with pytest.raises(gr.Error, match=f"uploads are kept for {KEPT_MINUTES} minutes"):
        api.predict(upload(tmp_path / "gone.png"))


def test_the_attribution_is_not_written_twice(page, client, scan):
    client.predict(image=handle_file(scan), api_name="/explain")
    files = list(Path(page.app.uploaded_file_dir).rglob("*.npy"))
    assert files
    assert all(np.load(io.BytesIO(file.read_bytes())).shape == (64, 64) for file in files)


@pytest.mark.parametrize(
    "image",
    [
        *("/home/jane/jane-doe.png", 7, ["jane-doe"], {"path": ["jane-doe"]}),
        {"path": "/home/jane-doe.png", "meta": {"_type": "gradio.FileData"}},
    ],
)
def test_what_is_not_a_file_is_answered_with_a_sentence_and_not_logged(image, address, capfd):
    for data in ([image, "default"], [image], []):
        answer = call(address, data)
        assert "pass handle_file(path)" in answer
        assert "jane" not in answer
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_path_that_was_not_uploaded_is_not_read(address, scan):
    for image in (
        {"path": str(scan)},
        {"path": str(scan), "url": "http://localhost/scan.png", "meta": {}},
        {"path": str(scan), "meta": {"_type": "gradio.FileData"}},
    ):
        answer = call(address, [image, "default"])
        assert "pass handle_file(path)" in answer
        assert "probabilities" not in answer


def test_nothing_about_a_visitor_is_logged(client, scan, capfd):
    client.predict(image=handle_file(scan), api_name="/explain")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_importing_the_app_and_building_the_page_start_nothing(tiny, tmp_path):
    """In a process of its own, because other tests start everything."""
    code = f"""
import os, signal, sys, threading
import gradio, torch  # what these two do by themselves is not ours: they set HF_… and TORCH… variables later on
def state():
    settings = [(name, value) for name, value in os.environ.items() if not name.startswith(("HF_", "TORCH"))]
    return settings, signal.getsignal(signal.SIGTERM), threading.enumerate()
opened = []
sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
before = state()
import app
from brain_xai.ui.page import build_page
assert not hasattr(app, "demo")
assert not os.listdir({str(tmp_path)!r}), "the import made a file"
page = build_page()
assert before == state()
assert not [name for name in opened if name.endswith(".safetensors")], "a model was loaded"
assert not [name for name in os.listdir({str(tmp_path)!r}) if name.startswith("brain-xai")]
"""
    settings = {"BRAIN_XAI_CHECKPOINTS": tiny, "TMPDIR": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"} | settings
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_page_that_would_keep_uploads_is_not_served(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", tiny)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    async def start() -> None:  # without a running event loop Gradio makes new ones and leaves them open
        launch(build_page())

    with pytest.raises(RuntimeError, match="isolate_upload_folder"):
        asyncio.run(start())
