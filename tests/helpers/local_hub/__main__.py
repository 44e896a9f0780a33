"""A Hub on this machine: speaks to huggingface_hub as huggingface.co does, stores to a folder, fails when told to.

python -m tests.helpers.local_hub --root DIR    serve it by hand
with serve(folder) as hub: ...           serve it in a test
"""

import argparse
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Started as a script, Python looks in tests/ only.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.helpers.local_hub.faults import KINDS, STATUSES, Fault
from tests.helpers.local_hub.messages import Site
from tests.helpers.local_hub.store import Store
from tests.helpers.local_hub.wire import Logged, Server

TOKENS = {"hf_write": "write", "hf_read": "read"}


class Hub:
    """A running local Hub."""

    def __init__(self, server: Server):
        self._server = server
        self.endpoint = server.site.endpoint
        self.store = server.site.store
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

    def fault(self, pattern: str, what: int | str, times: int = 1, **details: float) -> None:
        """Let the next `times` requests that match go wrong; see `tests.hub.faults.Fault`."""
        self._server.faults.add(Fault(pattern, what, times, **details))

    def clear_faults(self) -> None:
        self._server.faults.clear()


@contextmanager
def serve(root: Path, port: int = 0, *, is_talkative: bool = False) -> Iterator[Hub]:
    """Serve the repositories in `root` on loopback, on any free port unless told which; stops at the end."""
    server = Server(port, is_talkative)
    port = server.server_port
    endpoint, storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    server.site = Site(Store(Path(root)), TOKENS, secrets.token_hex(), endpoint, storage)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Hub(server)
    finally:
        server.close()
        thread.join()


def main() -> None:
    kinds = "\n".join(f"  {name}: {text}" for name, text in KINDS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f"Faults, by status ({', '.join(map(str, STATUSES))}) or name:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the repositories; made if missing")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument(
        "--faults", nargs=3, action="append", default=[], metavar=("PATTERN", "WHAT", "TIMES"),
        help="let requests fail, as in --faults 'PUT /storage/' drop 2; may be repeated",
    )  # fmt: skip
    arguments = parser.parse_args()
    with serve(arguments.root, arguments.port, is_talkative=True) as hub:
        for pattern, what, times in arguments.faults:
            hub.fault(pattern, int(what) if what.isdigit() else what, int(times))
        print(f"The local Hub serves {arguments.root.resolve()} until Ctrl-C. In another terminal:")
        print("export", *(f"{name}={value}" for name, value in hub.environment.items()))
        print(f"({hub.read_token} may only read. Set HF_HOME to an empty folder to leave your own cache alone.)")
        print(f'Faults: curl {hub.endpoint}/control/faults -d \'{{"pattern": "PUT /storage/", "what": "drop"}}\'')
        print(f"Log:    curl {hub.endpoint}/control/requests", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Stopped; everything is kept.")


if __name__ == "__main__":
    main()
