"""HTTP/1.1 on a socket: reads requests, sends answers, and lets both fail where a test wants it."""

import re
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.helpers.local_hub.api import Request, Response, answer, refusal
from tests.helpers.local_hub.store import HubError, Store

KINDS = {
    "drop": "the connection is reset in the middle: of the upload if the request has a body, else of the download",
    "truncate": "the answer ends early and politely: Content-Length promises more than is sent",
    "lost": "the request is carried out, then the connection ends without an answer",
}
# The answers of a fault that is a status; other statuses are answered with their number.
STATUSES = {
    401: HubError(401, "Invalid credentials in Authorization header"),
    403: HubError(403, "Forbidden: you must use a write token for this request"),
    404: HubError(404, "Repository not found", "RepoNotFound"),
    409: HubError(409, "Another conflicting operation is in progress"),
    412: HubError(412, "A commit has happened since. Please refresh and try again."),
    429: HubError(429, "Too many requests"),
    503: HubError(503, "Service unavailable"),
}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose line, "METHOD /path?query", contains `pattern`.

    `what` is a status or one of `KINDS`. The first `after` of them are answered as usual.
    """

    pattern: str
    what: int | str
    times: int = 1
    after: int = 0

    def __post_init__(self):
        if not isinstance(self.what, int) and self.what not in KINDS:
            raise ValueError(f"Unknown fault {self.what!r}: give a status or one of {', '.join(KINDS)}.")


@dataclass(frozen=True)
class Logged:
    """A request in the log; status 0 if no answer was begun."""

    method: str
    path: str
    status: int


class Server(ThreadingHTTPServer):
    """Answers each connection in a thread of its own, and leaves neither threads nor sockets behind when closed."""

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 64

    def __init__(self, store: Store, port: int):
        super().__init__(("127.0.0.1", port), Handler)
        self.store = store
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.faults: list[Fault] = []
        self.log: list[Logged] = []
        self._is_closing = False
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    def take_fault(self, line: str) -> Fault | None:
        """Return the fault that hits this request line, and count it."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        if not self._is_closing:
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop answering, hang up on every client, and wait for the threads."""
        self._is_closing = True
        self.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each answer waits 40 ms between its headers and its body
    is_reset = False
    server: Server

    def handle_one_request(self):
        with suppress(ConnectionError):
            return super().handle_one_request()
        self.close_connection = True
        return None

    def _handle(self):
        fault = self.server.take_fault(f"{self.command} {unquote(self.path)}")
        kind = fault.what if fault else None
        body = self._read(kind)
        if body is None:
            return None
        if isinstance(kind, int):
            return self._send(refusal(STATUSES.get(kind, HubError(kind, f"Fault {kind}"))), None)
        headers = {name.lower(): value for name, value in self.headers.items()}
        server = self.server
        response = answer(Request(server.store, server.endpoint, self.command, self.path, headers, body))
        return self._hang_up() if kind == "lost" else self._send(response, kind)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _read(self, kind: int | str | None) -> bytes | None:
        """Return the body, None if the fault or the client has cut it off."""
        length = int(self.headers.get("Content-Length", 0))
        is_cut = kind == "drop" and length > 0
        body = self.rfile.read(length // 2 if is_cut else length)
        if is_cut or len(body) < length:
            self._hang_up()
            return None
        return body

    def _send(self, response: Response, kind: str | None) -> None:
        body = b"" if self.command == "HEAD" else response.body
        is_cut = kind in ("drop", "truncate")
        self._log(response.status)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if kind == "truncate":
            self.close_connection = True
        elif is_cut:
            self._reset()

    def _hang_up(self) -> None:
        self._log(0)
        self._reset()

    def _reset(self) -> None:
        """End the connection so that the client sees a reset instead of an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = self.is_reset = True

    def finish(self):
        super().finish()
        if self.is_reset:
            self.connection.close()  # before the server ends it in order

    def _log(self, status: int) -> None:
        """Log before the answer is sent, so that a test that has the answer finds the request in the log."""
        self.server.log.append(Logged(self.command, unquote(self.path), status))

    def log_message(self, format, *args):
        """Print nothing."""
