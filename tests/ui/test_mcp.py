"""The tools for language models, as a client of the Model Context Protocol sees them."""

import asyncio
import base64
import json
from pathlib import Path

import httpx
import pytest

from brain_xai import METHODS, load_checkpoint
from brain_xai.ui import mcp as brain_xai_mcp
from tests.helpers.served import served
from tests.helpers.studies import head, series_of, to_bytes, zipped

mcp = pytest.importorskip("mcp")
from mcp.client.streamable_http import streamable_http_client  # noqa: E402

ROUTE = "gradio_api/mcp/"


@pytest.fixture(scope="module")
def app(tiny):
    with served(tiny) as (page, address):
        yield page, address


def ask(address: str, question):
    """Connect as a language model's program does, and return what `question(session)` returns."""

    async def connect():
        async with (
            streamable_http_client(address + ROUTE) as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await question(session)

    return asyncio.run(connect())


def test_the_tools_and_what_they_say(app):
    tools = {tool.name: tool for tool in ask(app[1], lambda session: session.list_tools()).tools}
    assert set(tools) == set(brain_xai_mcp.TOOLS)
    assert "not a diagnosis" in tools["predict"].description
    assert "no answer for the patient" in tools["study"].description
    assert tools["batch"].inputSchema["properties"]["files"]["type"] == "array"
    assert all(len(tool.description) > 100 for tool in tools.values())
    assert "data URL" in tools["predict"].inputSchema["properties"]["image"]["description"]
    arguments = tools["explain"].inputSchema["properties"]
    assert "occlusion" in arguments["method"]["enum"]
    assert arguments["target"]["enum"][0] == "predicted"
    assert tools["explain"].inputSchema["required"] == ["image"]
    assert all(
        argument["description"] for tool in tools.values() for argument in tool.inputSchema["properties"].values()
    )


def test_a_model_sends_an_image_and_gets_an_answer_and_a_map(app, scan, tiny):
    page, address = app
    image = f"data:image/png;base64,{base64.b64encode(scan.read_bytes()).decode()}"
    prediction = load_checkpoint(tiny).predict(scan)
    answer = ask(address, lambda session: session.call_tool("predict", {"image": image}))
    assert not answer.isError
    assert prediction.label in answer.content[0].text
    assert "probabilities" in answer.content[0].text
    answer = ask(address, lambda session: session.call_tool("explain", {"image": image, "target": "glioma"}))
    [overlay] = [part for part in answer.content if part.type == "image"]
    assert base64.b64decode(overlay.data).startswith(b"\x89PNG")
    folder = Path(page.GRADIO_CACHE)
    assert [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == scan.read_bytes()]


def test_a_model_sends_many_images_and_asks_what_there_is(app, scan, tiny):
    _, address = app
    image = f"data:image/png;base64,{base64.b64encode(scan.read_bytes()).decode()}"
    broken = f"data:image/png;base64,{base64.b64encode(b'It hurts.').decode()}"
    answer = ask(address, lambda session: session.call_tool("batch", {"files": [image, broken, image]}))
    assert not answer.isError
    said = answer.content[0].text
    assert said.count(f"'label': '{load_checkpoint(tiny).predict(scan).label}'") == 2
    assert "'failed': 1" in said
    answer = ask(address, lambda session: session.call_tool("methods", {}))
    assert all(key in answer.content[0].text for key in METHODS)
    answer = ask(address, lambda session: session.call_tool("checkpoints", {}))
    assert load_checkpoint(tiny).info.revision in answer.content[0].text


def test_a_model_sends_a_study(app, tmp_path):
    _, address = app
    series = {str(number): to_bytes(one) for number, one in enumerate(series_of(head(slices=3)))}
    packed = base64.b64encode(zipped(tmp_path / "a.zip", series).read_bytes()).decode()
    for sent in (f"data:application/zip;base64,{packed}", f"data:application/octet-stream;base64,{packed}"):
        answer = ask(address, lambda session, sent=sent: session.call_tool("study", {"files": [sent]}))
        assert not answer.isError
        assert "'slices': 3" in answer.content[0].text
    answer = ask(address, lambda session: session.call_tool("study", {"files": []}))
    assert answer.isError
    assert "no files" in answer.content[0].text


def test_an_uploaded_image_is_named_by_its_address(app, scan, tiny):
    _, address = app
    [path] = httpx.post(f"{address}gradio_api/upload", files={"files": scan.read_bytes()}).json()
    image = f"{address}gradio_api/file={path}"
    answer = ask(address, lambda session: session.call_tool("predict", {"image": image}))
    assert load_checkpoint(tiny).predict(scan).label in answer.content[0].text


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("predict", {"image": "http://127.0.0.1:1/scan.png"}, "opens no other address"),
        ("predict", {"image": "http://x/gradio_api/file=/etc/passwd"}, "cannot be read"),
        ("predict", {"image": "data:image/png;base64,AAAA"}, "not an image"),
        ("compare", {"image": "data:image/png;base64,AAAA"}, "Unknown tool"),
    ],
)
def test_a_refused_call_says_why(tool, arguments, sentence, app):
    answer = ask(app[1], lambda session: session.call_tool(tool, arguments))
    assert answer.isError
    assert sentence in answer.content[0].text
    assert "/etc" not in answer.content[0].text


def test_one_setting_turns_it_off(tiny, monkeypatch):
    monkeypatch.setenv("BRAIN_XAI_MCP", "0")
    with served(tiny) as (page, address):
        assert page.mcp_server_obj is None
        assert httpx.post(address + ROUTE, json={}).status_code in (404, 405)
        assert json.loads(httpx.get(f"{address}gradio_api/info").text)["named_endpoints"]
