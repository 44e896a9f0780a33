"""A caller of the app's API over plain HTTP, as curl is one: uploads, calls, cancels, and hangs up."""

import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

META = {"_type": "gradio.FileData"}
QUEUE_FULL = "Queue is full"
_numbers = itertools.count()


@dataclass(frozen=True)
class Reply:
    """An answer: its `data`, or the `error` instead. An error without a sentence is opaque."""

    data: list | None
    error: str | None = None
    seconds: float = 0.0

    @property
    def is_queue_full(self) -> bool:
        """Return whether the app says that too many others are waiting."""
        return self.error is not None and QUEUE_FULL in self.error


@dataclass(frozen=True)
class Started:
    """A call that the app works on."""

    endpoint: str
    event: str
    session: str


class Refused(Exception):
    """The app did not begin to work on a call; the message is what it said."""


class Caller:
    """One caller with connections of its own."""

    def __init__(self, address: str, seconds: float = 300):
        self._http = httpx.Client(base_url=address, timeout=seconds)
        self._functions: dict[str, int] | None = None

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(self, content: bytes, name: str) -> dict:
        """Upload a file and return what calls take for it; raises `Refused`."""
        answer = self._http.post("/gradio_api/upload", files={"files": (name, content)})
        if answer.status_code != 200:
            raise Refused(_sentence(answer))
        return {"path": answer.json()[0], "orig_name": name, "meta": META}

    def download(self, file: dict) -> bytes:
        """Return the content of a file that a call answered with."""
        answer = self._http.get(f"/gradio_api/file={file['path']}")
        answer.raise_for_status()
        return answer.content

    def start(self, endpoint: str, *values: Any) -> Started:
        """Begin a call; raises `Refused`."""
        session = f"caller-{os.getpid()}-{next(_numbers)}"
        body = {"data": list(values), "session_hash": session}
        answer = self._http.post(f"/gradio_api/call/{endpoint}", json=body)
        if answer.status_code != 200:
            raise Refused(_sentence(answer))
        return Started(endpoint, answer.json()["event_id"], session)

    def wait(self, started: Started) -> Reply:
        """Wait for the answer of a call."""
        begun = time.monotonic()
        with self._http.stream("GET", f"/gradio_api/call/{started.endpoint}/{started.event}") as answer:
            if answer.status_code != 200:
                answer.read()
                return Reply(None, _sentence(answer))
            for event, data in _events(answer.iter_lines()):
                if event == "complete":
                    return Reply(data, None, time.monotonic() - begun)
                if event == "error":
                    return Reply(None, _error_of(data), time.monotonic() - begun)
        return Reply(None, "")

    def call(self, endpoint: str, *values: Any) -> Reply:
        """Call an endpoint and wait for its answer."""
        begun = time.monotonic()
        try:
            reply = self.wait(self.start(endpoint, *values))
        except Refused as refusal:
            reply = Reply(None, str(refusal))
        return Reply(reply.data, reply.error, time.monotonic() - begun)

    def cancel(self, started: Started) -> None:
        """Cancel a call."""
        if self._functions is None:
            described = self._http.get("/config").json()["dependencies"]
            self._functions = {one["api_name"]: one["id"] for one in described if one["api_name"]}
        ids = {"session_hash": started.session, "event_id": started.event}
        self._http.post("/gradio_api/cancel", json={**ids, "fn_index": self._functions[started.endpoint]})

    def hang_up(self, started: Started) -> None:
        """Begin to wait for the answer of a call, and hang up."""
        with self._http.stream("GET", f"/gradio_api/call/{started.endpoint}/{started.event}"):
            pass


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield name and data of the events of a stream."""
    event = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def _error_of(data: Any) -> str:
    """Return the sentence of an error, "" if there is none."""
    if isinstance(data, dict):
        data = data.get("error")
    return data if isinstance(data, str) else ""


def _sentence(answer: httpx.Response) -> str:
    """Return the sentence of an answer that is an error."""
    try:
        content = answer.json()
    except ValueError:
        return ""
    said = content.get("error") or content.get("detail") if isinstance(content, dict) else None
    return said if isinstance(said, str) else json.dumps(said)
