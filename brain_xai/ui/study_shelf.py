"""The studies that visitors look at: a few in the server's memory, each under a random name, none for long."""

import secrets
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

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
        self.closed = closed

    def compute_ahead(self, count: int) -> threading.Thread:
        """Start to compute the `count` maps nearest to `current`, wherever that moves; ends when the study closes."""
        thread = threading.Thread(target=self._compute, args=(count,), name="study maps", daemon=True)
        thread.start()
        return thread

    def _compute(self, count: int) -> None:
        left = set(range(len(self.explained.study)))
        with self._turn:
            while left and count and not self.closed.is_set():
                nearest = min(left, key=lambda index: abs(index - self.current))
                left.remove(nearest)
                count -= 1
                self.explained.explanation(nearest)


class Asked(NamedTuple):
    """What a visitor wants to see, and the event that is set when that is over."""

    question: Any
    closed: threading.Event


class Shelf:
    """Keeps the latest studies, one for each visitor, by a name that cannot be guessed."""

    def __init__(self, capacity: int = MAX_STUDIES):
        self._capacity = capacity
        self._asked: dict[str, Asked] = {}
        self._studies: OrderedDict[str, OpenStudy] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many studies are kept."""
        return len(self._studies)

    def reserve(self, name: str | None, question: Any) -> tuple[str, threading.Event] | None:
        """Make room for a study that is about to be opened, in place of the one that has its name.

        Args:
            name: The visitor's name, None before the first study.
            question: What is to be opened, and how.

        Returns:
            The name, and the event that is set when the study is removed; None if the same is open or being opened.
        """
        name, closed = name or secrets.token_urlsafe(), threading.Event()
        with self._lock:
            if name in self._asked and self._asked[name].question == question:
                return None
            self._remove(name)
            self._asked[name] = Asked(question, closed)
        return name, closed

    def put(self, name: str, closed: threading.Event, explained: StudyExplanation) -> OpenStudy | None:
        """Keep a study, in the place of the one that was looked at longest ago; None if it was removed."""
        with self._lock:
            if closed.is_set():
                return None
            self._studies[name] = study = OpenStudy(explained, closed)
            while len(self) > self._capacity:
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
        asked = self._asked.pop(name, None)
        if asked is not None:
            asked.closed.set()
