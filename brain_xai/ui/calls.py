"""What callers send to the API: files in every form they come in, missing arguments, and calls that make no sense."""

import base64
import binascii
import json
import sys
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import unquote

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.route_utils import API_PREFIX
from gradio.utils import get_upload_folder
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brain_xai.preprocess import MAX_FILE_BYTES
from brain_xai.ui.inputs import UserError
from brain_xai.ui.shortages import shortage

Component = TypeVar("Component", gr.Image, gr.File)
FILE_META = {"_type": "gradio.FileData"}
# Gradio describes a list of files by references, which are lost on the way to language models.
FILES_SCHEMA = {
    "type": "array",
    "items": {
        "title": "FileData",
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "meta": {
                "type": "object",
                "properties": {"_type": {"const": "gradio.FileData", "type": "string"}},
                "required": ["_type"],
            },
        },
        "required": ["path", "meta"],
    },
}
# Where an uploaded file can be read, after the address of the server.
FILE_ROUTE = f"{API_PREFIX}/file="
CALL_ROUTES = tuple(f"{API_PREFIX}/{route}/" for route in ("call", "run", "api", "queue"))
DATA_URL = "data:"
ADDRESSES = ("http:", "https:")

UNREADABLE_CALL = (
    "This call cannot be read. `image` must be an uploaded file: in Python, pass handle_file(path); over HTTP, upload "
    'the file first and send {"path": …, "meta": {"_type": "gradio.FileData"}}, or send {"url": "data:image/png;base64,'
    '…"}. The API page lists every argument.'
)
NO_FETCHING = (
    "This server opens no other address. Download the image and send the file itself: in Python, pass "
    'handle_file(path); over HTTP, upload it first or send {"url": "data:image/png;base64,…"}.'
)
BAD_DATA_URL = 'This data URL cannot be read. It has to look like "data:image/png;base64,iVBORw0…".'
LARGE_DATA_URL = f"This data URL holds more than {MAX_FILE_BYTES // 2**20} MB. Scale the image down."
NO_SUCH_CALL = (
    "There is no such endpoint, or one of its arguments is missing or unknown. The API page lists all endpoints and "
    "their arguments."
)
REFUSAL = {"error": NO_SUCH_CALL, "detail": NO_SUCH_CALL}  # Gradio's clients read "detail"


def describe_upload(component: Component, forms: str, example: Any) -> Component:
    """Describe what a component for uploads accepts.

    Gradio's own words promise that addresses are opened; its examples, which are in every snippet of the API page, are
    files on other servers.
    """
    schema = FILES_SCHEMA if isinstance(component, gr.File) else component.api_info()
    component.api_info = lambda: schema | {"additional_description": forms}
    component.example_payload = lambda: example
    return component


def accept_calls(page: gr.Blocks) -> None:
    """Understand the calls that Gradio cannot read, or answer them with a sentence.

    Gradio's own errors for these calls tell the caller nothing and quote in the log what the caller sent. A file
    without its "meta" passes Gradio's check that a path is an upload, and Gradio downloads any address that is given
    as a path; here neither happens.
    """
    preprocess_data = page.preprocess_data

    async def checked(function: Any, inputs: Sequence[Any], *arguments: Any, **keywords: Any) -> Any:
        try:
            complete = _with_defaults(function.inputs, inputs)
            readable = [_readable(value, block) for block, value in zip(function.inputs, complete, strict=True)]
            return await preprocess_data(function, readable, *arguments, **keywords)
        except gr.Error:
            raise
        except Exception:
            raise UserError(UNREADABLE_CALL) from None

    page.preprocess_data = checked


class SentenceForErrors:
    """Answer what Gradio's routes cannot handle, such as an unknown endpoint, with a sentence instead of a crash."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if (sentence := shortage(error)) and not started:
                return await JSONResponse({"error": sentence, "detail": sentence}, 507)(scope, receive, send)
            if not any(route in scope["path"] for route in CALL_ROUTES):
                raise
            print(f"A call of the API was refused: {type(error).__name__}", file=sys.stderr)
            if started:  # a stream of events
                event = f"event: error\ndata: {json.dumps(REFUSAL)}\n\n"
                return await send({"type": "http.response.body", "body": event.encode()})
            await JSONResponse(REFUSAL, 400)(scope, receive, send)


async def refuse_request(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that is not what the route expects; FastAPI's own answer repeats what was sent."""
    return JSONResponse({"error": UNREADABLE_CALL, "detail": UNREADABLE_CALL}, 422)


def _with_defaults(blocks: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Return the inputs with the components' own values for those missing at the end; more inputs are ignored."""
    return [*inputs[: len(blocks)], *(getattr(block, "value", None) for block in blocks[len(inputs) :])]


def _readable(value: Any, block: Any) -> Any:
    """Return a value in which every file is one that was uploaded here; raises `UserError`."""
    if isinstance(block, (gr.Image, gr.File)):
        if isinstance(value, str):
            value = [value] if getattr(block, "file_count", "single") == "multiple" else {"path": value}
        if isinstance(value, list):
            value = [{"path": entry} if isinstance(entry, str) else entry for entry in value]
    return _with_uploads(value)


def _with_uploads(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_uploads(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    place = value.get("path") or value.get("url")
    if isinstance(place, str):
        return {**value, "path": _uploaded(place), "url": None, "meta": FILE_META, "is_stream": False}
    return {key: _with_uploads(entry) for key, entry in value.items()}


def _uploaded(place: str) -> str:
    """Return the path of a file given by its path, its address on this server, or a data URL.

    Gradio then refuses every path outside of its upload folder.
    """
    if place[: len(DATA_URL)].lower() == DATA_URL:
        return _save_data_url(place)
    if place.lower().startswith(ADDRESSES):
        _, found, path = place.partition(FILE_ROUTE)
        if not found or path.lower().startswith(ADDRESSES):
            raise UserError(NO_FETCHING)
        return unquote(path)
    return place


def _save_data_url(address: str) -> str:
    header, _, content = address.partition(",")
    if not header.endswith(";base64"):
        raise UserError(BAD_DATA_URL)
    if len(content) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise UserError(LARGE_DATA_URL)
    try:
        decoded = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(BAD_DATA_URL) from None
    return save_bytes_to_cache(decoded, "image", get_upload_folder())
