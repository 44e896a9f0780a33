"""Faults that a test switches on: which requests they hit, how often, and what then happens."""

import re
import threading
from dataclasses import dataclass

from tests.helpers.local_hub.errors import HubError, bad_token, head_has_moved, write_token_required

RETRY_AFTER_S = 1

# The answers of a fault given as a status; other statuses are answered with their number as the sentence.
STATUSES = {
    401: bad_token(),
    403: write_token_required(),
    404: HubError(404, "Repository not found", "RepoNotFound"),
    409: HubError(409, "Another conflicting operation is in progress"),
    412: head_has_moved(),
    429: HubError(429, "Too many requests"),
    503: HubError(503, "Service unavailable"),
}
KINDS = {
    "drop": "the connection is reset in the middle: of the upload if the request has a body, else of the download",
    "truncate": "the answer ends early and politely: Content-Length promises more than is sent",
    "lost": "the request is carried out, then the connection ends without an answer",
    "slow": "the answer comes after `seconds`",
}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose line, "METHOD /path?query", matches `pattern` anywhere.

    `what` is a status or one of `KINDS`; `after` says how many bytes pass before the connection ends (default: half).
    """

    pattern: str
    what: int | str
    times: int = 1
    after: int | None = None
    seconds: float = 0.5

    def __post_init__(self):
        re.compile(self.pattern)
        if not isinstance(self.what, int) and self.what not in KINDS:
            raise ValueError(f"Unknown fault {self.what!r}: give a status or one of {', '.join(KINDS)}.")

    def error(self) -> HubError | None:
        """Return the refusal to answer with, None for the faults of the connection."""
        if isinstance(self.what, int):
            return STATUSES.get(self.what, HubError(self.what, f"Fault {self.what}"))
        return None

    def cut(self, length: int) -> int:
        """Return how many of `length` bytes pass."""
        return min(length, length // 2 if self.after is None else self.after)


class Faults:
    """The faults that are still to happen, first come, first served; safe to use from several threads."""

    def __init__(self):
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def take(self, line: str) -> Fault | None:
        """Return the fault that hits this request line, and count it."""
        with self._lock:
            for fault in self._waiting:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None
