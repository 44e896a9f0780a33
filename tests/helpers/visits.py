"""What visitors of a running app do, and whether each gets the answer that a lone visitor gets."""

import hashlib
import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from tests.helpers.caller import QUEUE_FULL, Caller, Refused
from tests.helpers.scans import LABELS, make_scan

SCANS = 12
METHODS = ("grad_cam", "hires_cam", "layer_cam", "saliency", "occlusion")
# What one visitor after the other does, in parts of 100.
ACTIONS = {"predict": 66, "explain": 14, "batch": 6, "compare": 2, "cancel": 6, "disconnect": 6}


@dataclass(frozen=True)
class Question:
    """A call: of an endpoint, about a scan, by a method if there is a choice."""

    endpoint: str
    scan: int
    method: str = ""


@dataclass(frozen=True)
class Visit:
    """What one visitor did and when, in seconds: `error` is "" if all was well; a full queue is no error."""

    action: str
    begun: float
    seconds: float
    error: str = ""
    queue_full: bool = False


class Visits:
    """Asks a running app, and knows what it has to answer: what it answered to a lone visitor."""

    def __init__(self, caller: Caller, asked: Iterable[Question] | None = None):
        self._alone = {question: ask(caller, question) for question in asked or questions()}

    def visit(self, caller: Caller, random: Random) -> Visit:
        """Do one thing, and compare the answer."""
        (action,) = random.choices(list(ACTIONS), list(ACTIONS.values()))
        begun, error = time.monotonic(), ""
        try:
            if action == "cancel":
                caller.cancel(started(caller, Question("compare", random.randrange(SCANS))))
            elif action == "disconnect":
                caller.hang_up(started(caller, Question("explain", random.randrange(SCANS), "occlusion")))
            else:
                question = random.choice([one for one in self._alone if one.endpoint == action])
                error = "" if ask(caller, question) == self._alone[question] else f"another answer to {question}"
        except Refused as refusal:
            error = str(refusal) or "no sentence"
        except (httpx.HTTPError, OSError) as failure:
            error = f"no answer: {type(failure).__name__}"
        is_full = QUEUE_FULL in error
        return Visit(action, begun, time.monotonic() - begun, "" if is_full else error, is_full)


def questions() -> Iterator[Question]:
    """Yield everything that visitors ask; few comparisons, because they take long."""
    for scan in range(SCANS):
        yield Question("predict", scan)
        yield from (Question("explain", scan, method) for method in METHODS)
        if scan < 2:
            yield Question("batch", scan)
            yield Question("compare", scan)


def ask(caller: Caller, question: Question) -> str:
    """Return a digest of an answer: numbers, overlays and maps; raises `Refused`."""
    reply = caller.wait(started(caller, question))
    if reply.data is None:
        raise Refused(reply.error or "")
    return hashlib.sha256(repr(_compared(caller, reply.data)).encode()).hexdigest()


def started(caller: Caller, question: Question) -> Any:
    """Upload what a question is about, and begin to ask it; raises `Refused`."""
    files = [caller.upload(scan_file(question.scan + more), "scan.png") for more in range(3 * _is_batch(question) or 1)]
    values = [files, "default"] if _is_batch(question) else [files[0], "default"]
    return caller.start(question.endpoint, *values, *([question.method] if question.method else []))


def scan_file(number: int) -> bytes:
    """Return the image file of a drawn scan."""
    buffer = io.BytesIO()
    make_scan(LABELS[number % len(LABELS)], number, side=160).save(buffer, "PNG")
    return buffer.getvalue()


def _is_batch(question: Question) -> bool:
    return question.endpoint == "batch"


def _compared(caller: Caller, answer: Any) -> Any:
    """Return an answer with the content of its files in place of their names, and without the time it took."""
    if isinstance(answer, list):
        return [_compared(caller, part) for part in answer]
    if not isinstance(answer, dict):
        return answer
    if "path" in answer and "meta" in answer:
        return caller.download(answer)
    return {key: _compared(caller, value) for key, value in answer.items() if key != "seconds"}
