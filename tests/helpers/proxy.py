"""A reverse proxy on this machine that serves an app below a path, as nginx does."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding")


@contextmanager
def proxied(port: int, path: str) -> Iterator[str]:
    """Serve what is on a port of this machine below `path`, such as "/brain"; yields the new address."""

    class Proxy(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if not self.path.startswith(f"{path}/"):
                return self.send_error(404)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with closing(HTTPConnection("127.0.0.1", port)) as backend, suppress(OSError, HTTPException):
                backend.request(self.command, self.path.removeprefix(path), body, dict(self.headers))
                return self.relay(backend.getresponse())  # until one of the two hangs up

        def relay(self, answer: HTTPResponse) -> None:
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.end_headers()
            while chunk := answer.read1(2**16):  # as it comes: some answers are streams of events
                self.wfile.write(chunk)
                self.wfile.flush()

        do_GET = do_POST = do_HEAD = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{path}/"
        finally:
            server.shutdown()
