"""Serve checkpoints that visitors may choose, and follow those on the Hub.

Newer revisions are loaded in the background. While the Hub is away the last revision that loaded answers, and for a
checkpoint that never loaded a bundled one.
"""

import math
import sys
import threading
import time
from collections.abc import Iterable

from brain_xai.checkpoint import hub
from brain_xai.checkpoint.catalog import (
    bundled_checkpoints,
    is_on_hub,
    load_checkpoint,
    load_snapshot,
    update_from_hub,
    with_warnings,
)
from brain_xai.checkpoint.schema import CheckpointError
from brain_xai.classifier import Classifier, PredictionWarning
from brain_xai.ui import texts

# How often the Hub is checked for a newer revision, and how soon again after it did not answer.
CHECK_SECONDS = 600
RETRY_SECONDS = 60
# How long a request waits for the first download before a fallback answers, and for an update before the cached
# revision answers.
DOWNLOAD_WAIT_SECONDS, REFRESH_WAIT_SECONDS = 1.5, 0.5


def classifier_of(checkpoint: str, allow_fallback: bool = True) -> Classifier:
    """Return the classifier that answers for an allowed id now, without waiting long for the Hub.

    Args:
        checkpoint: An id that visitors may choose.
        allow_fallback: Whether a bundled checkpoint may answer, with a warning, while the Hub cannot be reached and
            the id was never downloaded. Without it the result always belongs to `checkpoint`.

    Returns:
        For an id on the Hub the newest revision that works here, with a warning if it may be outdated.

    Raises:
        CheckpointError: The checkpoint cannot be loaded, or only another one could answer.
    """
    if is_on_hub(checkpoint):
        return follower_of(checkpoint).classifier(allow_fallback)
    return load_checkpoint(checkpoint)


def prefetch(checkpoints: Iterable[str]) -> None:
    """Start to download those of the checkpoints that are on the Hub, and give small ones the time to arrive."""
    followers = [follower_of(checkpoint) for checkpoint in filter(is_on_hub, checkpoints)]
    for follower in followers:
        follower.refresh()
    for follower in followers:
        follower.wait()


class HubFollower:
    """Serves the newest revision of one checkpoint on the Hub that loads here; a thread of its own checks the Hub."""

    def __init__(self, name: str):
        self.name = name
        self._lock = threading.Lock()
        self._refresh_done = threading.Event()  # cleared while a refresh is running
        self._refresh_done.set()
        self._wait_until = 0.0
        self._snapshot = hub.cached(name)
        self._error: CheckpointError | None = None  # why the last refresh failed
        is_settled = hub.is_pinned(name) and hub.last_loaded(name) is not None
        self._next_refresh = math.inf if is_settled else 0.0

    def refresh(self) -> None:
        """Check the Hub for a newer revision in the background, if a check is due and none is running."""
        with self._lock:
            if not self._refresh_done.is_set() or time.monotonic() < self._next_refresh:
                return
            self._refresh_done.clear()
            wait = DOWNLOAD_WAIT_SECONDS if self._snapshot is None else REFRESH_WAIT_SECONDS
            self._wait_until = time.monotonic() + wait
        # A daemon thread, because a server that is stopped must not wait for the Hub.
        threading.Thread(target=self._refresh, name=f"refresh {self.name}", daemon=True).start()

    def wait(self) -> None:
        """Wait for the refresh that is running, but not for long."""
        self._refresh_done.wait(max(0.0, self._wait_until - time.monotonic()))

    def classifier(self, allow_fallback: bool = True) -> Classifier:
        """Return what answers now; raises `CheckpointError` (see `classifier_of`)."""
        self.refresh()
        self.wait()
        classifier, error = self._last_good(), self._error
        if classifier is not None:
            return with_warnings(classifier, *self._warnings(classifier.info.revision, error))
        if error is not None and not self._has_fallback(error):
            raise CheckpointError(str(error))
        if not allow_fallback:
            reason = str(error) if error else f"{self.name} is still being downloaded from the Hub."
            raise CheckpointError(f"{reason} No other model answers in its place. Try again in a few minutes.")
        return self._fallback(error)

    def _refresh(self) -> None:
        # This error stays if something unexpected is raised, which Python then prints.
        error, next_check = CheckpointError(f"{self.name} cannot be loaded."), RETRY_SECONDS
        try:
            snapshot = update_from_hub(self.name)  # loaded here, so that no visitor meets a revision that fails
            with self._lock:
                self._snapshot = snapshot
            error, next_check = None, math.inf if hub.is_pinned(self.name) else CHECK_SECONDS
        except CheckpointError as failure:
            error, next_check = failure, math.inf if isinstance(failure, hub.HubOffline) else RETRY_SECONDS
            if self._has_fallback(error):  # otherwise it is raised to visitors, and logged there
                print(error, file=sys.stderr, flush=True)
        finally:
            self._error = error
            self._next_refresh = time.monotonic() + next_check
            self._refresh_done.set()

    def _last_good(self) -> Classifier | None:
        snapshot = self._snapshot
        if snapshot is None:
            return None
        try:
            return load_snapshot(self.name, snapshot)
        except CheckpointError as error:  # downloaded by another program, or damaged since it was loaded
            print(error, file=sys.stderr, flush=True)
            with self._lock:
                if self._snapshot is snapshot:
                    self._snapshot = None
            return None

    def _has_fallback(self, error: CheckpointError) -> bool:
        """Return whether something answers in spite of `error`: an earlier revision or a bundled checkpoint."""
        return self._snapshot is not None or isinstance(error, hub.HubUnreachable)

    def _warnings(self, revision: str, error: CheckpointError | None) -> list[PredictionWarning]:
        """Say why the cached revision may not be the newest one."""
        if hub.is_pinned(self.name):  # a commit never changes
            return []
        if error is None:
            return [] if self._refresh_done.is_set() else [hub.unchecked_warning(self.name, revision)]
        if isinstance(error, hub.HubUnreachable):
            return [hub.unreachable_warning(self.name, revision)]
        if isinstance(error, hub.NotOnHub):
            return [hub.removed_warning(self.name, revision)]
        return [PredictionWarning("revision_refused", texts.revision_refused(self.name, revision))]

    def _fallback(self, error: CheckpointError | None) -> Classifier:
        bundled = next(iter(bundled_checkpoints()), None)
        if bundled is None:
            raise error or CheckpointError(f"{self.name} is being downloaded, and no checkpoint is bundled.")
        warning = PredictionWarning("hub_unreachable", texts.stand_in(self.name, bundled))
        return with_warnings(load_checkpoint(bundled), warning)


_followers: dict[str, HubFollower] = {}
_followers_lock = threading.Lock()


def follower_of(name: str) -> HubFollower:
    """Return the follower of a checkpoint on the Hub; there is one for each in the process."""
    with _followers_lock:
        if name not in _followers:
            _followers[name] = HubFollower(name)
        return _followers[name]
