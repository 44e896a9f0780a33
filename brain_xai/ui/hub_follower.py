"""The models that visitors may choose: loaded once, followed on the Hub, replaced by a bundled one while it is away."""

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from brain_xai.checkpoint import hub
from brain_xai.checkpoint.catalog import bundled_checkpoints, is_on_hub, load_checkpoint, load_snapshot
from brain_xai.checkpoint.schema import CheckpointError
from brain_xai.classifier import Classifier, PredictionWarning
from brain_xai.ui import texts

# How often a branch is looked at, and how soon again after the Hub did not answer.
CHECK_SECONDS = 600
RETRY_SECONDS = 60
# For so long after a look begins, visitors wait for a model that was never fetched, before another answers instead,
# and for a newer revision, before the one that is here answers.
FETCH_PATIENCE_SECONDS, NEWS_PATIENCE_SECONDS = 1.5, 0.5


def classifier_of(checkpoint: str, allow_fallback: bool = True) -> Classifier:
    """Return the classifier that answers for an allowed id now, without waiting long for the Hub.

    Args:
        checkpoint: An id that visitors may choose.
        allow_fallback: Whether a bundled checkpoint may answer, with a warning, while the Hub cannot be reached and
            the id was never downloaded. Without it the result always belongs to `checkpoint`.

    Returns:
        For an id on the Hub the newest revision that works here, with a warning where it may be outdated.

    Raises:
        CheckpointError: The checkpoint cannot be loaded, or only another one could answer.
    """
    if is_on_hub(checkpoint):
        return followed(checkpoint).classifier(allow_fallback)
    return _local(checkpoint)


def look_at(checkpoints: Iterable[str]) -> None:
    """Begin to fetch those of the checkpoints that are on the Hub."""
    for checkpoint in filter(is_on_hub, checkpoints):
        followed(checkpoint).look()


# Hashing the weights is for the first visitor only.
_local = lru_cache(maxsize=4)(load_checkpoint)


class Followed:
    """A checkpoint on the Hub, looked at now and then by a thread of its own; what cannot be used is never shown."""

    def __init__(self, name: str):
        self.name = name
        self._lock = threading.Lock()
        self._looked = threading.Event()  # set while no look is under way
        self._looked.set()
        self._next_look, self._give_up_waiting = 0.0, 0.0
        self._error: CheckpointError | None = None
        self._snapshot = hub.cached(name)

    def look(self) -> None:
        """Look at the Hub in the background if it is time to; a commit that is here needs no look."""
        with self._lock:
            is_settled = hub.is_pinned(self.name) and self._snapshot is not None and self._error is None
            if is_settled or not self._looked.is_set() or time.monotonic() < self._next_look:
                return
            self._looked.clear()
            patience = FETCH_PATIENCE_SECONDS if self._snapshot is None else NEWS_PATIENCE_SECONDS
            self._give_up_waiting = time.monotonic() + patience
        # A daemon, because a server that is stopped does not wait for the Hub.
        threading.Thread(target=self._look, name=f"look at {self.name}", daemon=True).start()

    def classifier(self, allow_fallback: bool = True) -> Classifier:
        """Return what answers now; raises `CheckpointError`."""
        self.look()
        self._looked.wait(max(0.0, self._give_up_waiting - time.monotonic()))
        snapshot, error = self._snapshot, self._error
        if snapshot is not None:
            return load_snapshot(self.name, replace(snapshot, notices=self._notices(snapshot, error)))
        if error is not None and not self._is_covered(error):
            raise error.with_traceback(None)  # the same one for every visitor: it must not grow
        if not allow_fallback:
            reason = str(error) if error else f"{self.name} is still being downloaded from the Hub."
            raise CheckpointError(f"{reason} No other model answers in its place. Try again in a few minutes.")
        return self._stand_in(error)

    def _look(self) -> None:
        error = None
        try:
            snapshot = hub.pull(self.name)
            load_snapshot(self.name, snapshot)  # what is strange is refused before any visitor meets it
            self._snapshot = snapshot
        except CheckpointError as refused:
            error = refused
            if self._is_covered(error):  # else whoever asks for the model is told, and the maintainer with them
                print(error, file=sys.stderr, flush=True)
        finally:
            self._error = error
            self._next_look = time.monotonic() + (CHECK_SECONDS if error is None else RETRY_SECONDS)
            self._looked.set()

    def _is_covered(self, error: CheckpointError) -> bool:
        """Return whether something answers all the same: what was fetched before, or a stand-in."""
        return self._snapshot is not None or isinstance(error, hub.HubUnreachable)

    def _notices(self, snapshot: hub.Snapshot, error: CheckpointError | None) -> tuple[PredictionWarning, ...]:
        if error is None:
            return ()
        if isinstance(error, hub.HubUnreachable):
            return (hub.unreachable_notice(self.name, snapshot.revision),)
        return (PredictionWarning("revision_refused", texts.revision_refused(self.name, snapshot.revision)),)

    def _stand_in(self, error: CheckpointError | None) -> Classifier:
        bundled = next(iter(bundled_checkpoints()), None)
        if bundled is None:
            raise error or CheckpointError(f"{self.name} is being fetched, and no checkpoint is bundled.")
        classifier = _local(bundled)
        return _with_notice(classifier, PredictionWarning("hub_unreachable", texts.stand_in(self.name, bundled)))


# One object for each name, and one for each stand-in: what is measured on a classifier is measured once.
followed = lru_cache(maxsize=None)(Followed)


@lru_cache(maxsize=4)
def _with_notice(classifier: Classifier, notice: PredictionWarning) -> Classifier:
    return replace(classifier, notices=(notice,))
