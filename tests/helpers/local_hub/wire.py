"""HTTP/1.1 on a socket: reads requests, sends answers, and does to both what the faults say."""

import json
import re
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.helpers.local_hub import reading, writing  # noqa: F401  they add their routes to the table
from tests.helpers.local_hub.faults import RETRY_AFTER_S, Fault, Faults
from tests.helpers.local_hub.messages import Request, Response, Site, as_json, refusal
from tests.helpers.local_hub.routes import answer


@dataclass(frozen=True)
class Logged:
    """A request in the log: status 0 if no answer was begun, and the bytes of the two bodies that passed."""

    method: str
    path: str
    status: int
    received: int
    sent: int


class Server(ThreadingHTTPServer):
    """Answers each connection in a thread of its own, and leaves neither threads nor sockets behind when closed."""

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 64

    def __init__(self, port: int, is_talkative: bool):
        super().__init__(("127.0.0.1", port), Handler)
        self.site: Site | None = None  # needs the port, so it comes after
        self.faults = Faults()
        self.log: list[Logged] = []
        self.is_talkative = is_talkative
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Clients that go away in the middle are none of our business; anything else is a fault of this program."""
        if not self.closing.is_set():
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop answering, hang up on every client, and wait for the threads."""
        self.closing.set()
        self.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms between its headers and its body
    is_rude = False
    server: Server

    def handle_one_request(self):
        with suppress(ConnectionError):
            return super().handle_one_request()
        self.close_connection = True
        return None

    def _handle(self):
        if self.path.startswith("/control/"):
            return self._send(self._control(self._read(None)), 0, None)
        fault = self.server.faults.take(f"{self.command} {unquote(self.path)}")
        body = self._read(fault)
        if body is None:
            return None
        if fault and fault.what == "slow":
            self.server.closing.wait(fault.seconds)
        if fault and (error := fault.error()):
            response = refusal(error)
            if error.status in (429, 503):
                response.headers["Retry-After"] = str(RETRY_AFTER_S)
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = answer(Request(self.server.site, self.command, self.path, headers, body))
        if fault and fault.what == "lost":
            return self._hang_up(len(body))
        return self._send(response, len(body), fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _read(self, fault: Fault | None) -> bytes | None:
        """Return the body, None if the fault or the client has cut it off."""
        length = int(self.headers.get("Content-Length", 0))
        is_cut = fault is not None and fault.what == "drop" and length > 0
        body = self.rfile.read(fault.cut(length) if is_cut else length)
        if is_cut or len(body) < length:
            self._hang_up(len(body))
            return None
        return body

    def _send(self, response: Response, received: int, fault: Fault | None) -> None:
        body = b"" if self.command == "HEAD" else response.body
        is_cut = fault is not None and fault.what in ("drop", "truncate")
        sent = body[: fault.cut(len(body))] if is_cut else body
        self._note(response.status, received, len(sent))
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(sent)
        if is_cut and fault.what == "truncate":
            self.close_connection = True
        elif is_cut:
            self._reset()

    def _hang_up(self, received: int) -> None:
        self._note(0, received, 0)
        self._reset()

    def _reset(self) -> None:
        """End the connection the rude way: the client sees a reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = self.is_rude = True

    def finish(self):
        super().finish()
        if self.is_rude:
            self.connection.close()  # before the server ends it politely

    def _note(self, status: int, received: int, sent: int) -> None:
        """Log before the answer goes out, so that a test that has it finds the request in the log."""
        if self.path.startswith("/control/"):
            return
        path = re.sub(r"[?&]signature=\w+$", "", unquote(self.path))
        self.server.log.append(Logged(self.command, path, status, received, sent))
        if self.server.is_talkative:
            print(f"{status or 'cut':<4} {self.command} {path}  {received} bytes in, {sent} out", flush=True)

    def _control(self, body: bytes) -> Response:
        """Faults and log for tests in other processes: POST or DELETE /control/faults, GET /control/requests."""
        if self.path == "/control/requests":
            return as_json([asdict(request) for request in self.server.log])
        if self.command == "DELETE":
            self.server.faults.clear()
        else:
            self.server.faults.add(Fault(**json.loads(body)))
        return as_json({})

    def log_message(self, format, *args):
        """Say nothing: the log says it all."""
