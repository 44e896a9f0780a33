"""How long maps take on this machine, learned from those that were drawn."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from brain_xai.classifier import Classifier
from brain_xai.methods import METHODS

# Before anything was measured.
SECONDS_PER_PASS = 0.015
# How much the newest map counts.
NEWEST = 0.5

_seconds: dict[tuple[str, str], float] = {}


@contextmanager
def timed(classifier: Classifier, method: str) -> Iterator[None]:
    """Measure what is done inside as one map of a method; what is cut short counts for nothing."""
    start = time.perf_counter()
    yield
    key, taken = (classifier.info.revision, method), time.perf_counter() - start
    before = _seconds.get(key, taken)
    _seconds[key] = before + NEWEST * (taken - before)


def expected(classifier: Classifier, method: str) -> float:
    """Return about how many seconds a map of a method takes with its prediction."""
    revision = classifier.info.revision
    if (revision, method) in _seconds:
        return _seconds[revision, method]
    known = [seconds / METHODS[key].forward_passes for (model, key), seconds in _seconds.items() if model == revision]
    # A map of few passes spends most of its time elsewhere, so the cheapest pass is nearest to the truth.
    return min([*known, SECONDS_PER_PASS]) * METHODS[method].forward_passes
