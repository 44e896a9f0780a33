"""The studies that visitors look at: a few in the server's memory, each under a random name, none for long."""

import secrets
import threading
from collections import OrderedDict

from brain_xai.study import StudyExplanation

# The oldest study makes room for the fifth: at most four volumes are in memory, however many visitors there are.
MAX_STUDIES = 4


class OpenStudy:
    """A study that a visitor looks at. Its maps are computed in the background, those nearest to the eye first."""

    # One study at a time, so that visitors who wait for an answer are not slowed down by many.
    _turn = threading.Lock()

    def __init__(self, explained: StudyExplanation, closed: threading.Event):
        self.explained = explained
        self.current = explained.ranking()[0]
        self._closed = closed

    def compute_ahead(self, count: int) -> threading.Thread:
        """Start to compute the `count` maps nearest to `current`, wherever that moves; ends when the study closes."""
        thread = threading.Thread(target=self._compute, args=(count,), name="study maps", daemon=True)
        thread.start()
        return thread

    def _compute(self, count: int) -> None:
        left = set(range(len(self.explained.study)))
        with self._turn:
            while left and count and not self._closed.is_set():
                nearest = min(left, key=lambda index: abs(index - self.current))
                left.remove(nearest)
                count -= 1
                self.explained.explanation(nearest)


class Shelf:
    """Keeps the latest studies, each by a name that cannot be guessed."""

    def __init__(self, capacity: int = MAX_STUDIES):
        self._capacity = capacity
        self._closed: dict[str, threading.Event] = {}
        self._studies: OrderedDict[str, OpenStudy] = OrderedDict()
        self._lock = threading.Lock()

    def reserve(self) -> tuple[str, threading.Event]:
        """Return the name of a study that is about to be opened, and the event that is set when it is removed."""
        name, closed = secrets.token_urlsafe(), threading.Event()
        with self._lock:
            self._closed[name] = closed
        return name, closed

    def put(self, name: str, explained: StudyExplanation) -> OpenStudy | None:
        """Keep a study, in the place of the one that was looked at longest ago; None if its name was removed."""
        with self._lock:
            if name not in self._closed:
                return None
            self._studies[name] = study = OpenStudy(explained, self._closed[name])
            while len(self._studies) > self._capacity:
                self._remove(next(iter(self._studies)))
        return study

    def get(self, name: str | None) -> OpenStudy | None:
        """Return a study, None if it is gone."""
        with self._lock:
            if name in self._studies:
                self._studies.move_to_end(name)
            return self._studies.get(name or "")

    def remove(self, name: str | None) -> None:
        """Forget a study, and end what is computed for it."""
        with self._lock:
            self._remove(name or "")

    def _remove(self, name: str) -> None:
        self._studies.pop(name, None)
        closed = self._closed.pop(name, None)
        if closed is not None:
            closed.set()
