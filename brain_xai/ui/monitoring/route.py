"""Who may see the monitoring page: whoever knows the token, by a header or by a form that sets a cookie.

The token is in no address, no cookie and no log. Without one the page does not exist.
"""

import asyncio
import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from brain_xai.ui.monitoring import page
from brain_xai.ui.monitoring.monitor import Monitor

COOKIE = "brain_xai_monitoring"
COOKIE_SECONDS = 12 * 3600
MAX_FORM_BYTES = 4096
# Whoever tries tokens one by one waits.
REFUSAL_SECONDS = 0.5
WRONG_TOKEN = "This is not the token."
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


def routes(monitor: Monitor | None) -> list[Route]:
    """Return the routes of the page. Without a token they answer that there is nothing, also in place of Gradio's."""
    if monitor is None or not monitor.settings.token:
        return [Route(path, _nothing, methods=["GET", "POST"]) for path in ("/monitoring", "/monitoring/{rest:path}")]
    door = Door(monitor)
    return [
        Route("/monitoring", door.show, methods=["GET"]),
        Route("/monitoring/login", door.log_in, methods=["POST"]),
        Route("/monitoring/logout", door.log_out, methods=["POST"]),
        Route("/monitoring/{rest:path}", _nothing),
    ]


class Door:
    """Lets those in who know the token."""

    def __init__(self, monitor: Monitor):
        self._monitor = monitor
        token = monitor.settings.token.encode()
        self._token = _digest(token)
        # It cannot be turned back into the token, and is void with the next token.
        self._cookie = hmac.new(token, b"cookie of the monitoring page", hashlib.sha256).hexdigest()
        self._known = _digest(self._cookie.encode())

    async def show(self, request: Request) -> Response:
        """Answer with the page, or with the form that asks for the token."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        by_header = scheme.lower() == "bearer"
        if by_header and not self._is_token(given.strip()):
            await asyncio.sleep(REFUSAL_SECONDS)
            return PlainTextResponse(WRONG_TOKEN, 401, HEADERS)
        if not by_header and not hmac.compare_digest(_digest(request.cookies.get(COOKIE, "").encode()), self._known):
            return HTMLResponse(page.login_page("monitoring/login"), 401, HEADERS)
        chosen = request.query_params.get("range", "hours")
        shown = await asyncio.to_thread(self._page, chosen if chosen in page.RANGES else "hours")
        return HTMLResponse(shown, headers=HEADERS)

    async def log_in(self, request: Request) -> Response:
        """Set the cookie if the form holds the token."""
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > MAX_FORM_BYTES:
                return PlainTextResponse("This form is too long.", 413, HEADERS | {"Connection": "close"})
        given = parse_qs(content.decode(errors="replace")).get("token", [""])[0]
        if not self._is_token(given):
            await asyncio.sleep(REFUSAL_SECONDS)
            return HTMLResponse(page.login_page("login", WRONG_TOKEN), 401, HEADERS)
        answer = RedirectResponse("../monitoring", 303, HEADERS)
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
        # Without a path a browser sends the cookie to this page only, below whatever path a proxy serves it.
        answer.set_cookie(
            COOKIE, self._cookie, COOKIE_SECONDS, path=None, secure=secure, httponly=True, samesite="strict"
        )
        return answer

    async def log_out(self, request: Request) -> Response:
        """Take the cookie back."""
        answer = RedirectResponse("../monitoring", 303, HEADERS)
        answer.set_cookie(COOKIE, "", 0, path=None, httponly=True, samesite="strict")
        return answer

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(_digest(given.encode()), self._token)

    def _page(self, chosen: str) -> str:
        hours = self._monitor.store.hours()
        shown = page.view(hours, chosen, datetime.now(UTC))
        return page.page(shown, chosen, min(hours, default=""), self._monitor.where())


def _digest(value: bytes) -> bytes:
    """Return a digest, so that comparing takes the same time for values of any length."""
    return hashlib.sha256(value).digest()


async def _nothing(request: Request) -> Response:
    return PlainTextResponse("Not found", 404, HEADERS)
