"""A Hub on this machine that speaks to huggingface_hub as huggingface.co does.

python -m tests.helpers.local_hub --root DIR    serve the repositories in DIR
with serve(folder) as hub: ...                  serve them in a test, which can let requests fail

It knows what publishing and loading checkpoints needs, and no more. Frozen: extend it only for a new proof.
"""

import argparse
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.local_hub.api import TOKENS
from tests.helpers.local_hub.server import Fault, Logged, Server
from tests.helpers.local_hub.store import Store


class Hub:
    """A running local Hub."""

    def __init__(self, server: Server):
        self._server = server
        self.endpoint = server.endpoint
        self.store = server.store
        self.write_token, self.read_token = TOKENS

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment, with the right to write; add an HF_HOME of its own."""
        settings = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.write_token}
        return settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    @property
    def requests(self) -> list[Logged]:
        """The requests so far, in the order of their answers."""
        return list(self._server.log)

    def fault(self, pattern: str, what: int | str, times: int = 1, after: int = 0) -> None:
        """Let the next `times` requests that match fail, `after` so many; see `Fault`."""
        self._server.faults.append(Fault(pattern, what, times, after))

    def clear_faults(self) -> None:
        self._server.faults.clear()


@contextmanager
def serve(root: Path, port: int = 0) -> Iterator[Hub]:
    """Serve the repositories in `root` on loopback; port 0 is any free one."""
    server = Server(Store(Path(root)), port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Hub(server)
    finally:
        server.close()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the repositories; created if missing")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    arguments = parser.parse_args()
    # A shell starts background jobs with Ctrl-C ignored, and Python keeps it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with serve(arguments.root, arguments.port) as hub:
        print(f"The local Hub serves {arguments.root.resolve()} until Ctrl-C. In another terminal:")
        print("export", *(f"{name}={value}" for name, value in hub.environment.items()))
        print("Set HF_HOME to an empty folder to leave your own cache alone.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Stopped; everything is kept.")


if __name__ == "__main__":
    main()
