"""What belongs to a visitor: files without their names, in no cache, and deleted as soon as the visitor says so."""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import route_utils
from gradio.state_holder import SessionState
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Only these endings of an uploaded file's name are kept; the ending of "scan.Jane Doe" says more than a format.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".heic", ".pdf"),
    *(".dcm", ".nii", ".nii.gz", ".gz", ".zip"),
)


def stored_name(name: str) -> str:
    """Return the name under which an upload is stored: original names may hold the names of patients."""
    endings = (suffix for suffix in SUFFIXES if name.lower().endswith(suffix))
    return f"scan{max(endings, key=len, default='')}"


class NamelessUploads(route_utils.GradioMultiPartParser):
    """Gradio's parser of uploads, which forgets the names of the files."""

    async def parse(self):
        """Read the files that were sent."""
        form = await super().parse()
        for file in form.getlist("files"):
            if isinstance(file, route_utils.GradioUploadFile):
                file.filename = stored_name(file.filename or "")
        return form


def forget_names() -> None:
    """Have Gradio store uploads without their names."""
    route_utils.GradioMultiPartParser = NamelessUploads


# Of Gradio's routes for features that the page does not have, these write what visitors send to the disk: all inputs
# with the names of files, for a link to them, and recordings of the screen.
CLOSED = ("/gradio_api/deep_link", "/gradio_api/process_recording")


class NoStore:
    """Middleware: no browser and no proxy keeps a file or an answer."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope.get("path", "")
        if "/gradio_api/" not in path:
            return await self.app(scope, receive, send)
        if path.rstrip("/").endswith(CLOSED):
            return await PlainTextResponse("Not found", 404)(scope, receive, send)

        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"
            await send(message)

        return await self.app(scope, receive, send_private)


class Belongings:
    """The files of every visitor: what was uploaded, and what was answered.

    Gradio names a file after its content, so two visitors may share one. It is deleted with the last of them.
    """

    def __init__(self, page: gr.Blocks):
        self._page = page
        self._lock = threading.Lock()
        # In the order in which they were first seen. A visitor is known by the state that Gradio keeps for a session.
        self._files: weakref.WeakKeyDictionary[SessionState, dict[Path, None]] = weakref.WeakKeyDictionary()
        self._gone: weakref.WeakSet[SessionState] = weakref.WeakSet()
        self._watch("preprocess_data", lambda given, used: given)  # Gradio has checked what was given
        self._watch("postprocess_data", lambda given, answered: answered)

    def forget(self, request: gr.Request) -> None:
        """Delete everything of the visitor who asks, also what is in memory, now."""
        self._page.state_holder.delete_state(request.session_hash)  # studies are elsewhere in memory
        session = self._page.state_holder.session_data.pop(request.session_hash, None)
        if session is not None:
            with self._lock:
                self._gone.add(session)  # what is still being computed is deleted when it is done
                self._delete(session, list(self._files.get(session, ())))

    def forget_previous(self, image: dict | None, request: gr.Request) -> None:
        """Delete what the visitor who asks had before choosing `image`, everything if there is none."""
        session = self._page.state_holder.session_data.get(request.session_hash)
        if session is None:
            return
        with self._lock:
            files = list(self._files.get(session, ()))
            path = Path(image["path"]) if image else None
            self._delete(session, files[: files.index(path)] if path in files else files)

    def _watch(self, name: str, sent: Callable[[Any, Any], Any]) -> None:
        """Note the files in what is `sent` from or to a visitor, of what a method of the page is given and returns."""
        method = getattr(self._page, name)

        async def watched(function: Any, values: Sequence[Any], state: SessionState | None, *rest: Any, **more: Any):
            result = await method(function, values, state, *rest, **more)
            if state is not None:
                self._add(state, sent(values, result))
            return result

        setattr(self._page, name, watched)

    def _add(self, session: SessionState, values: Any) -> None:
        folder = Path(self._page.GRADIO_CACHE)
        files = [path for path in map(Path, _paths(values)) if path.is_relative_to(folder) and ".." not in path.parts]
        with self._lock:
            self._files.setdefault(session, {}).update(dict.fromkeys(files))
            if session in self._gone:
                self._delete(session, files)

    def _delete(self, session: SessionState, files: list[Path]) -> None:
        examples = {Path(file) for block in list(self._page.blocks.values()) for file in block.keep_in_cache}
        mine = self._files.get(session, {})
        for file in files:
            mine.pop(file, None)
            if file in examples or any(file in others for others in list(self._files.values())):
                continue
            with contextlib.suppress(OSError):  # swept already, or the folder holds another file
                os.unlink(file)
                file.parent.rmdir()


def _paths(values: Any) -> Iterator[str]:
    """Yield the paths of the files in what is sent from or to a page."""
    if isinstance(values, dict):
        if isinstance(path := values.get("path"), str):
            yield path
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from _paths(value)
