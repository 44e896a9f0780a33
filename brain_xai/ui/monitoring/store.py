"""Counters in memory and in a folder, so that they survive restarts and kills."""

import contextlib
import os
import secrets
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brain_xai.ui.monitoring.counts import Hours, added, from_lines, hour_now, to_lines

PREFIX, SUFFIX = "counters-", ".jsonl"
# What is kept on the disk: the oldest files go first. An hour of busy use has about two kilobytes.
MAX_FOLDER_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2**20
MONTHS_KEPT = 13


class Store:
    """The counters of this process, in a file of its own, together with those of earlier and of other processes.

    Each process writes another file, always as a whole: none can spoil what another has written, and a kill costs
    what was counted since the last `save`.
    """

    def __init__(self, folder: Path, hour: Callable[[], str] = hour_now):
        self.folder = folder
        self._hour = hour
        self._lock = threading.Lock()  # of the counters; never held while files are read or written
        self._saving = threading.Lock()
        self._own: Hours = {}
        self._has_changed = False
        self._name = _new_name()
        # The content of the files of others by name, each with the time of its last change.
        self._others: dict[str, tuple[int, Hours]] = {}
        self._from_hub: dict[str, Hours] = {}
        self._has_complained = False
        self._tidy()

    def add(self, *key: str, amount: float = 1) -> None:
        """Count something in the current hour."""
        hour = self._hour()
        with self._lock:
            self._own.setdefault(hour, Counter())[key] += amount
            self._has_changed = True

    def hours(self) -> Hours:
        """Return all counters: of this process, of other files in the folder, and of the Hub."""
        with self._saving:
            self._read_others()
            others = {name: hours for name, (_, hours) in self._others.items()}
            with self._lock:
                own = added(self._own)
            return added(own, *(self._from_hub | others).values())

    def save(self) -> None:
        """Write what this process has counted, if there is anything new; a full disk costs the counters only."""
        with self._saving:
            with self._lock:
                if not self._has_changed:
                    return
                content, self._has_changed = to_lines(self._own).encode(), False
            try:
                self._write(content)
            except OSError as error:
                self._has_changed = True  # for the next time
                self._complain(error)
            else:
                if len(content) > MAX_FILE_BYTES:
                    self._begin_file()

    def take_from_hub(self, files: Iterable[Path]) -> None:
        """Count in what other places have sent to the Hub; files that are in the folder, too, count once."""
        self._from_hub = {
            file.name: hours for file in files if file.name != self._name and (hours := _read(file)) is not None
        }

    def _write(self, content: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.folder / self._name
        partial = file.with_suffix(".partial")
        partial.write_bytes(content)
        os.replace(partial, file)

    def _begin_file(self) -> None:
        """Leave the own file as it is, as one of another process, and go on with a new one."""
        with self._lock:
            self._others[self._name] = (0, self._own)
            self._own, self._name = {}, _new_name()
        self._tidy()

    def _read_others(self) -> None:
        known = self._others
        self._others = {}
        for file in _files(self.folder):
            with contextlib.suppress(OSError):  # another process has tidied up
                changed = file.stat().st_mtime_ns
                before = known.get(file.name)
                hours = before[1] if before and before[0] == changed else _read(file)
                if file.name != self._name and hours is not None:
                    self._others[file.name] = (changed, hours)

    def _tidy(self) -> None:
        """Delete files that are too old, and the oldest of too many."""
        with contextlib.suppress(OSError):  # a folder that cannot be written is found out by `save`
            total = 0
            for file in reversed(_files(self.folder)):
                total += file.stat().st_size
                if total > MAX_FOLDER_BYTES or not file.name.startswith(recent_prefixes()):
                    file.unlink()

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            print(f"The counters of the monitoring page could not be saved: {error.strerror}.", file=sys.stderr)
        self._has_complained = True


def recent_prefixes() -> tuple[str, ...]:
    """Return how the names of the files begin that are not too old, by the month in which they were begun."""
    month, prefixes = datetime.now(UTC).date().replace(day=1), []
    for _ in range(MONTHS_KEPT):
        prefixes.append(f"{PREFIX}{month:%Y-%m}")
        month = (month - timedelta(days=1)).replace(day=1)
    return tuple(prefixes)


def _new_name() -> str:
    """Return the name of a new file: when it was begun, and a random part because several may begin at once."""
    return f"{PREFIX}{datetime.now(UTC):%Y-%m-%dT%H%M%S%f}-{secrets.token_hex(4)}{SUFFIX}"


def _files(folder: Path) -> list[Path]:
    """Return the files of counters in a folder, oldest first."""
    return sorted(file for file in folder.glob(f"{PREFIX}*{SUFFIX}") if file.is_file() and not file.is_symlink())


def _read(file: Path) -> Hours | None:
    """Return the counters of a file, None if it cannot be read or is larger than any that was written here."""
    try:
        if file.stat().st_size > 2 * MAX_FILE_BYTES:
            return None
        return from_lines(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
