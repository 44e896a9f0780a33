"""A copy of the counters in a data set on the Hub, which also survives the disk of a Space."""

import threading
from pathlib import Path

from huggingface_hub import CommitScheduler, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

from brain_xai.ui.monitoring.store import PREFIX, SUFFIX, Store, recent_prefixes

FOLDER = "counters"  # in the data set
COMMIT_MINUTES = 15
LAST_COMMIT_SECONDS = 3


class HubCopy:
    """Brings the counters of earlier runs from the Hub once, and sends those of this machine every few minutes.

    Whatever happens to the Hub, the app and the counters on this machine go on.
    """

    def __init__(self, store: Store, repo_id: str, minutes: float = COMMIT_MINUTES):
        self.repo_id = repo_id
        self._store = store
        self._minutes = minutes
        self._scheduler: CommitScheduler | None = None

    def connect(self) -> None:
        """Fetch, and begin to send; raises what the Hub's client raises. A data set that is missing is created."""
        wanted = [f"{FOLDER}/{prefix}*{SUFFIX}" for prefix in recent_prefixes()]
        try:
            fetched = Path(snapshot_download(self.repo_id, repo_type="dataset", allow_patterns=wanted))
            self._store.take_from_hub(fetched.glob(f"{FOLDER}/{PREFIX}*{SUFFIX}"))
        except RepositoryNotFoundError:  # the first run
            pass
        self._scheduler = CommitScheduler(
            repo_id=self.repo_id,
            repo_type="dataset",
            private=True,
            folder_path=self._store.folder,
            path_in_repo=FOLDER,
            allow_patterns=f"{PREFIX}*{SUFFIX}",
            every=self._minutes,
        )

    @property
    def is_connected(self) -> bool:
        """Whether the last exchange with the Hub worked, as far as it is done."""
        sent = getattr(self._scheduler, "last_future", None)
        return self._scheduler is not None and not (sent and sent.done() and sent.exception())

    def close(self) -> None:
        """Send what was saved last, if the Hub takes it at once, and stop."""
        if self._scheduler is None:
            return
        last = threading.Thread(target=self._send_quietly, daemon=True)
        last.start()
        last.join(LAST_COMMIT_SECONDS)  # the app does not wait for a Hub that hangs
        self._scheduler.stop()

    def _send_quietly(self) -> None:
        """Send now; the scheduler writes to the log what went wrong."""
        self._scheduler.trigger().exception()
