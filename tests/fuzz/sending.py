"""Send files to a running app, and judge what it makes of each."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import httpx

from tests.fuzz.corpus import Sample
from tests.helpers.caller import Caller, Refused, Reply
from tests.helpers.sentences import is_ours

# No file may keep others waiting for longer than this on a busy machine.
MAX_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """What became of one file: "answered", "refused" with a sentence, or a defect, named by its `message`."""

    number: int
    kind: str
    format: str
    size: int
    endpoint: str
    result: str
    message: str
    seconds: float

    @property
    def is_defect(self) -> bool:
        """Return whether the app should have done something else."""
        return self.result not in ("answered", "refused")

    def to_json(self) -> dict:
        """Return the fields by name."""
        return asdict(self)


def send(caller: Caller, number: int, sample: Sample) -> Outcome:
    """Upload a file, call its endpoint, and judge the answer."""
    try:
        file = caller.upload(sample.content, sample.name)
        reply = caller.call(sample.endpoint, [file] if sample.endpoint in ("batch", "study") else file)
    except Refused as refusal:
        reply = Reply(None, str(refusal))
    except httpx.HTTPError as error:
        reply = Reply(None, f"no answer: {type(error).__name__}")
    result, message = judged(sample.endpoint, reply)
    size = len(sample.content)
    seconds = round(reply.seconds, 2)
    return Outcome(number, sample.kind, sample.format, size, sample.endpoint, result, message, seconds)


def judged(endpoint: str, reply: Reply) -> tuple[str, str]:
    """Return the result and, for a refusal or a defect, its message."""
    if reply.seconds > MAX_SECONDS:
        return "slow", f"{reply.seconds:.0f} s"
    if reply.data is None:
        return ("refused" if is_ours(reply.error or "") else "opaque"), reply.error or ""
    return ANSWERS[endpoint](reply.data)


def _prediction(data: list) -> tuple[str, str]:
    probabilities = data[0]["probabilities"].values()
    is_sound = all(map(math.isfinite, probabilities)) and math.isclose(sum(probabilities), 1, abs_tol=1e-6)
    return ("answered", "") if is_sound else ("wrong", f"probabilities {list(probabilities)}")


def _table(data: list) -> tuple[str, str]:
    opaque = [row["error"] for row in data[0]["rows"] if row["error"] and not is_ours(row["error"])]
    return ("opaque", opaque[0]) if opaque else ("answered", "")


def _study(data: list) -> tuple[str, str]:
    return ("answered", "") if data[0]["slices"] else ("wrong", "no slices")


ANSWERS: dict[str, Callable[[list], tuple[str, str]]] = {"predict": _prediction, "batch": _table, "study": _study}
