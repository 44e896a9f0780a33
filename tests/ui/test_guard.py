"""Requests that are too large, too slow or ask the server to open an address, as a server hands them to the app."""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from brain_xai.ui import guard
from brain_xai.ui.guard import Guard

CALL, UPLOAD = "/gradio_api/call/predict", "/gradio_api/upload"


async def read_all(scope, receive, send) -> None:
    """An app that answers how many bytes arrived."""
    size, is_complete = 0, False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        size, is_complete = size + len(message["body"]), not message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(path: str, parts: Iterable[tuple[bytes, bool]] = ((b"", False),), length: int = 0, pause: float = 0) -> tuple:
    """Send parts of a body, (bytes, more to come), and return status and body of the answer."""
    sent, waiting = [], iter(parts)

    async def receive() -> dict:
        await asyncio.sleep(pause)
        body, more = next(waiting, (None, False))
        if body is None:
            await asyncio.Event().wait()  # a sender that says nothing more
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"content-length", str(length).encode())]
    scope = {"type": "http", "path": path, "headers": headers, "method": "POST"}
    asyncio.run(Guard(read_all)(scope, receive, send))
    return sent[0]["status"], sent[-1]["body"].decode()


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(guard, "MAX_CALL_BYTES", 100)
    monkeypatch.setattr(guard, "MAX_UPLOAD_BYTES", 200)
    monkeypatch.setattr(guard, "SILENT_SECONDS", 5)


def test_a_body_of_unknown_length_is_cut_off_at_the_limit():
    parts = [(b"x" * 60, True), (b"x" * 60, True), (b"x", False)]
    assert ask(CALL, parts)[0] == 413
    assert ask(UPLOAD, parts) == (200, "121")
    assert ask(CALL, [(b"x" * 100, False)]) == (200, "100")


def test_a_body_that_is_announced_too_large_is_not_read():
    status, said = ask(CALL, [], length=101)
    assert (status, guard.TOO_LARGE in said) == (413, True)


def test_silence_and_a_trickle_end(monkeypatch):
    monkeypatch.setattr(guard, "SILENT_SECONDS", 0.1)
    status, said = ask(CALL, [(b"x", True)])
    assert (status, guard.TOO_SLOW in said) == (408, True)
    monkeypatch.setattr(guard, "SILENT_SECONDS", 60)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    assert ask(CALL, [(b"x", True)] * 90, pause=0.05)[0] == 408


@pytest.mark.parametrize("route", ["file=http://", "file=HTTPS://", "file/http://", "proxy=http://"])
def test_the_server_opens_no_address(route):
    assert ask(f"/gradio_api/{route}192.0.2.1/") == (404, "Not found")
    assert ask(f"/below/a/path/gradio_api/{route}192.0.2.1/") == (404, "Not found")


def test_files_of_this_server_are_served():
    assert ask("/gradio_api/file=/uploads/scan.png")[0] == 200


def test_every_threat_in_security_md_names_a_test_that_exists():
    root = Path(__file__).parents[2]
    rows = [line for line in (root / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")][
        2:
    ]
    assert len(rows) >= 12
    for row in rows:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", row)
        assert named, row
        for file, name in named:
            [path] = (root / "tests").rglob(f"{file}.py")
            assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{file}::{name}"
