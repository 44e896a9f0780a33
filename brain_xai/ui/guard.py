"""What never reaches Gradio's routes: requests that are too large or too slow, and addresses that it would open."""

import asyncio
import time

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

# An image as a data URL has up to 27 MB. Several files of a series are uploaded in one request; each has a limit, too.
MAX_CALL_BYTES = 64 * 2**20
MAX_UPLOAD_BYTES = 512 * 2**20
# A sender that is silent for longer, or not done by then, is cut off: each holds a connection and perhaps a file.
SILENT_SECONDS = 30
BODY_SECONDS = 900

TOO_LARGE = "This request is too large. Send fewer or smaller files at once."
TOO_SLOW = "This request took too long to arrive. Check your connection and send it again."
REFUSALS = {413: TOO_LARGE, 408: TOO_SLOW}
# Behind these Gradio opens any public address for its caller, in the name of this server.
FETCHING = ("/gradio_api/file=http", "/gradio_api/file/http", "/gradio_api/proxy=")


def limit_headers() -> None:
    """Have uvicorn read requests with h11: its other parser, where installed, keeps headers of any size in memory."""
    HTTP_PROTOCOLS["auto"] = HTTP_PROTOCOLS["h11"]


class Guard:
    """Middleware: refuse what no visitor of the page sends."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].lower()
        if any(route in path for route in FETCHING):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
            return
        body = Body(receive, MAX_UPLOAD_BYTES if path.rstrip("/").endswith("/upload") else MAX_CALL_BYTES)
        if body.is_announced_too_large(scope):
            body.status = 413
        else:
            await self._serve(scope, body, send)
        if body.status and not body.is_answered:
            said = REFUSALS[body.status]
            answer = JSONResponse({"error": said, "detail": said}, body.status, {"Connection": "close"})
            await answer(scope, receive, send)

    async def _serve(self, scope: Scope, body: "Body", send: Send) -> None:
        async def unless_refused(message: Message) -> None:
            if body.status and not body.is_answered:
                return  # what the app makes of a request that was cut off
            body.is_answered = True
            await send(message)

        try:
            await self._app(scope, body.receive, unless_refused)
        except Exception:
            if not body.status:
                raise


class Body:
    """The body of a request, as far as it is let through; `status` is why it was cut off, 0 if it was not."""

    def __init__(self, receive: Receive, limit: int):
        self.status = 0
        self.is_answered = False
        self._receive, self._limit = receive, limit
        self._size, self._is_complete = 0, False
        self._end = time.monotonic() + BODY_SECONDS

    def is_announced_too_large(self, scope: Scope) -> bool:
        """Return whether the headers say that the body is too large."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        return length.isdigit() and int(length) > self._limit

    async def receive(self) -> Message:
        """Return the next part, or that the sender is gone if it sends too much or too slowly."""
        if self._is_complete:  # from now on this waits for the sender to leave
            return await self._receive()
        try:
            async with asyncio.timeout(min(SILENT_SECONDS, self._end - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            self.status = 408
            return {"type": "http.disconnect"}
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            self.status = 413
            return {"type": "http.disconnect"}
        self._is_complete = not message.get("more_body", False)
        return message
