"""What an attacker tries against a running app; SECURITY.md names the test for each threat."""

import json
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from brain_xai.ui import guard
from tests.helpers.at_hub import use
from tests.helpers.local_hub.__main__ import serve
from tests.helpers.scans import make_scan
from tests.helpers.served import served

ROOT = Path(__file__).parents[2]
SECRET = "what-only-the-server-may-read"
META = {"_type": "gradio.FileData"}
MONITORING_TOKEN, HUB_TOKEN = "monitoring-token-of-tests", "hf_token_of_tests_that_must_not_leak"


@pytest.fixture(scope="module")
def app(tiny):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAIN_XAI_MONITORING_TOKEN", MONITORING_TOKEN)
        with served(tiny) as page_and_address:
            yield page_and_address


@pytest.fixture(scope="module")
def address(app) -> str:
    return app[1]


@pytest.fixture
def secret(tmp_path) -> Path:
    """A file of the server that no visitor may read; an image, so that reading it would not fail."""
    path = tmp_path / "secret.png"
    make_scan("glioma", 9).save(path)
    path.write_bytes(path.read_bytes() + SECRET.encode())
    return path


@contextmanager
def nobody_comes():
    """Yield an address inside the network of the server; nobody may connect to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(BlockingIOError):
            listener.accept()


def call(address: str, name: str, data: object) -> str:
    """Call an endpoint as curl does, and return all that it prints."""
    started = httpx.post(f"{address}gradio_api/call/{name}", json={"data": data}, timeout=60)
    if started.status_code != 200:
        return started.text
    return httpx.get(f"{address}gradio_api/call/{name}/{started.json()['event_id']}", timeout=120).text


def endpoints(address: str) -> dict[str, list[dict]]:
    """Return the arguments of every endpoint, as the schema describes them."""
    described = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"]
    return {name.strip("/"): entry["parameters"] for name, entry in described.items()}


def takes_text(parameter: dict) -> bool:
    """Return whether an argument may hold a string, also inside a file or a list."""
    return "string" in json.dumps(parameter["type"])


# Reading what is not theirs


def test_no_text_of_any_endpoint_reaches_a_file_or_an_address(address, scan, secret):
    """Each string argument of each endpoint in turn, the others as they should be."""
    [path] = httpx.post(f"{address}gradio_api/upload", files={"files": scan.read_bytes()}).json()
    image = {"path": path, "meta": META}
    walked = 0
    with nobody_comes() as inside:
        hostile = [str(secret), f"../../../../../..{secret}", f"http://{inside}/scan.png", f"file://{secret}"]
        for name, parameters in endpoints(address).items():
            good = [
                {"image": image, "files": [image]}.get(parameter["parameter_name"], parameter["parameter_default"])
                for parameter in parameters
            ]
            for number, parameter in enumerate(parameters):
                if not takes_text(parameter):
                    continue
                walked += 1
                for text in hostile:
                    value = text
                    if parameter["parameter_name"] == "files":
                        value = [{"path": text, "meta": META}, {"url": text, "meta": META}, text]
                    elif parameter["parameter_name"] == "image":
                        value = {"path": text, "url": text, "orig_name": text, "meta": META}
                    answer = call(address, name, [*good[:number], value, *good[number + 1 :]])
                    assert "event: error" in answer, (name, parameter["parameter_name"], text, answer)
                    for private in (SECRET, "Traceback", "site-packages", str(ROOT)):
                        assert private not in answer
    assert walked >= 15


@pytest.mark.parametrize("route", ["gradio_api/file=", "gradio_api/file/", "static/", "assets/", "svelte/"])
def test_only_uploads_and_answers_are_served_as_files(route, app, address, secret, tiny):
    page, _ = app
    uploads = Path(page.app.uploaded_file_dir)
    places = [
        secret,
        f"{uploads}/..{secret}",
        f"{uploads}/../process",
        f"{uploads}/%2e%2e/process",
        f"..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{secret}",
        f"{tiny}/config.json",
        ROOT / "app.py",
        "app.py",
        "/etc/passwd",
        "/proc/self/environ",
        uploads,
        "",
    ]
    for place in places:
        answer = httpx.get(f"{address}{route}{place}")
        assert answer.status_code in (400, 403, 404), (place, answer.status_code)
        assert SECRET not in answer.text
        assert "root:" not in answer.text


@pytest.mark.parametrize("route", ["gradio_api/file=", "gradio_api/file/", "gradio_api/proxy=", "gradio_api//file="])
def test_the_server_is_no_proxy(route, address):
    """Also not for public addresses, which Gradio would open for anybody."""
    with nobody_comes() as inside:
        for place in (f"http://{inside}/", f"HTTPS://{inside}/", "http://192.0.2.1/", "%68ttp://192.0.2.1/"):
            answer = httpx.get(f"{address}{route}{place}")
            assert answer.status_code in (403, 404)
            assert answer.text in ("Not found", '{"detail":"Not Found"}'), "it was tried"


# Too much, too slowly


def raw(address: str) -> socket.socket:
    """Connect to the app without a client that would behave."""
    place = urlsplit(address)
    return socket.create_connection((place.hostname, place.port), timeout=60)


def trickle(connection: socket.socket, part: bytes, times: int, pause: float = 0) -> None:
    """Send the same again and again, as long as somebody listens."""
    for _ in range(times):
        connection.sendall(part)
        time.sleep(pause)


def said(connection: socket.socket) -> str:
    """Return what the app says before it hangs up."""
    content = b""
    while part := connection.recv(2**16):
        content += part
    return content.decode()


def test_headers_without_end_are_cut_off(address):
    with raw(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with pytest.raises(ConnectionError):
            trickle(connection, b"a" * 2**20, 64)
    assert httpx.get(f"{address}config").status_code == 200


def test_a_call_that_is_too_large_is_refused_before_it_is_read(address):
    with raw(address) as connection:
        start = f"POST /gradio_api/call/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {10 * 2**30}\r\n\r\n"
        connection.sendall(start.encode())
        answer = said(connection)
    assert answer.startswith("HTTP/1.1 413")
    assert guard.TOO_LARGE in answer


@pytest.mark.parametrize("route", ["call/predict", "queue/join", "upload", "run/predict"])
def test_a_body_of_unknown_length_is_cut_off(route, address, monkeypatch):
    monkeypatch.setattr(guard, "MAX_CALL_BYTES", 100_000)
    monkeypatch.setattr(guard, "MAX_UPLOAD_BYTES", 100_000)

    def parts():
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(10):  # the limit is crossed by the last one
            yield b" " * 10_000

    kind = "multipart/form-data; boundary=b" if route == "upload" else "application/json"
    headers = {"Content-Type": kind, "Accept": "application/json, text/event-stream"}
    answer = httpx.post(f"{address}gradio_api/{route}", content=parts(), headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (413, guard.TOO_LARGE)


@pytest.mark.parametrize(
    "body", ["[" * 200_000, '{"data": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"data": [1e999]}']
)
def test_json_that_no_program_writes_gets_a_sentence(body, address):
    for route in ("call/predict", "queue/join", "run/predict"):
        answer = httpx.post(f"{address}gradio_api/{route}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500 or answer.json()["error"]
        assert "Traceback" not in answer.text
        assert "site-packages" not in answer.text


def test_slow_senders_are_cut_off_and_keep_nobody_waiting(address, monkeypatch):
    monkeypatch.setattr(guard, "SILENT_SECONDS", 1.0)
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(1000)
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    slow = [raw(address) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(head + b"Content-Length: 1000000\r\n\r\n" + body)
        assert httpx.get(f"{address}config", timeout=60).status_code == 200
        answers = [said(connection) for connection in slow]
    finally:
        for connection in slow:
            connection.close()
    assert all(answer.startswith("HTTP/1.1 408") for answer in answers)
    assert guard.TOO_SLOW in answers[0]


def test_a_trickle_ends_too(address, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    with raw(address) as connection:
        connection.sendall(b"POST /gradio_api/call/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        with pytest.raises(ConnectionError):
            trickle(connection, b" ", 600, pause=0.1)
    assert httpx.get(f"{address}config").status_code == 200


# Secrets


def test_no_token_is_in_an_answer_or_in_the_log(folder, tmp_path, scan, monkeypatch, capfd):
    """Also when the Hub refuses them: its client puts much into its errors."""
    with serve(tmp_path / "root") as hub:
        use(hub.endpoint, tmp_path / "cache", monkeypatch, token=HUB_TOKEN)
        monkeypatch.setenv("BRAIN_XAI_MONITORING_TOKEN", MONITORING_TOKEN)
        monkeypatch.setenv("BRAIN_XAI_MONITORING_DATASET", "org/counters")
        monkeypatch.setenv("BRAIN_XAI_MONITORING_DIR", str(tmp_path / "counters"))
        with served("org/private", "bundled/resnet18") as (_, address):
            [path] = httpx.post(f"{address}gradio_api/upload", files={"files": scan.read_bytes()}).json()
            image = {"path": path, "meta": META}
            answers = [call(address, "predict", [image, name]) for name in ("org/private", HUB_TOKEN)]
            answers += [call(address, "checkpoints", [])]
            answers += [httpx.get(f"{address}{page}").text for page in ("", "config", "gradio_api/info", "monitoring")]
            answers += [httpx.get(f"{address}monitoring", params={"token": MONITORING_TOKEN}).text]
            assert hub.requests, "the Hub was asked"
    captured = capfd.readouterr()
    for text in (*answers, captured.out, captured.err):
        assert MONITORING_TOKEN not in text
        assert HUB_TOKEN not in text
    assert not [file for file in (tmp_path / "counters").rglob("*") if HUB_TOKEN in file.read_text()]
