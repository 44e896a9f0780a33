"""Let many visitors use a running app for as long as you like, and print what it answered and what it used.

python -m tests.soak --minutes 60                                  # for weeks of visitors in an hour
python -m tests.soak --minutes 2 --clients 50 --requests 2000      # a rush, until both limits are reached
"""

import argparse
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from random import Random

from tests.helpers.caller import Caller
from tests.helpers.running_app import RunningApp, Usage, running_app
from tests.helpers.visits import ACTIONS, Visit, Visits

ROWS = 12
# How long the app may take to clean up after the last visitor.
REST_SECONDS = 45
COLUMNS = "{:>8}{:>10}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}{:>7}{:>12}"


@dataclass(frozen=True)
class Sample:
    """What the app used at a time, in seconds since the start, and how many files of visitors it kept."""

    time: float
    usage: Usage
    kept: int


class Soak:
    """Visitors that come one after the other to each of several clients."""

    def __init__(self, app: RunningApp, clients: int, seed: int):
        self._app, self._clients, self._seed = app, clients, seed
        self.visits: list[Visit] = []
        self.samples: list[Sample] = []
        self._end = threading.Event()
        self._started = 0.0
        with Caller(app.address) as caller:
            self._expected = Visits(caller)
        self.rest()
        self.start = app.usage()

    def run(self, seconds: float, requests: int) -> None:
        """Send visitors for at least so long, and at least so many; ends early when the app has crashed."""
        self._started = time.monotonic()
        threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(self._clients)]
        for thread in threads:
            thread.start()
        every = max(5.0, seconds / ROWS)
        while self._app.is_running and (self.elapsed < seconds or len(self.visits) < requests):
            self._end.wait(min(every, max(0.1, seconds - self.elapsed)))
            if not self.samples or self.elapsed >= self.samples[-1].time + every - 0.5:
                self._sample()
        self._end.set()
        for thread in threads:
            thread.join()
        self._sample()

    @property
    def elapsed(self) -> float:
        """Return the seconds since the visitors began."""
        return time.monotonic() - self._started

    def rest(self) -> Usage | None:
        """Wait until the app has ended all work, and return what it then uses; None if it has crashed."""
        end = time.monotonic() + REST_SECONDS
        while self._app.is_running and time.monotonic() < end:
            before = self._app.usage()
            time.sleep(3)
            after = self._app.usage()
            if (before.threads, before.files) == (after.threads, after.files):
                break
        return self._app.usage() if self._app.is_running else None

    def _visit(self, number: int) -> None:
        random = Random(f"{self._seed} {number}")
        while not self._end.is_set() and self._app.is_running:
            with Caller(self._app.address) as caller:
                for _ in range(10):
                    if self._end.is_set():
                        return
                    self.visits.append(self._expected.visit(caller, random))

    def _sample(self) -> None:
        if self._app.is_running:
            self.samples.append(Sample(self.elapsed, self._app.usage(), len(self._app.files())))

    def table(self) -> str:
        """Return requests, errors, latency and use over time, and then by action."""
        head = ("minute", "requests", "errors", "full", "median", "95 %", "99 %", "slowest", "memory", "peak")
        lines = [COLUMNS.format(*head, "thr./files")]
        since = 0.0
        for sample in self.samples:
            some = [one for one in self.visits if since <= one.begun + one.seconds - self._started < sample.time]
            memory, files = f"{sample.usage.memory:.0f}", f"{sample.usage.threads}/{sample.usage.files}"
            lines.append(_row(f"{sample.time / 60:.1f}", some, memory, f"{sample.usage.peak:.0f}", files))
            since = sample.time
        lines.append("")
        lines += [_row(action, [one for one in self.visits if one.action == action]) for action in ACTIONS]
        lines.append(_row("all", self.visits))
        lines += [
            f"{count} x {error}" for error, count in Counter(one.error for one in self.visits if one.error).items()
        ]
        return "\n".join(lines)


def _row(name: str, visits: list[Visit], memory: str = "", peak: str = "", files: str = "") -> str:
    """Return one line; the latency is that of answers, in seconds."""
    times = sorted(one.seconds for one in visits if not (one.queue_full or one.error)) or [0.0]
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    latency = (f"{value:.2f}" for value in (cuts[49], cuts[94], cuts[98], times[-1]))
    errors, full = sum(bool(one.error) for one in visits), sum(one.queue_full for one in visits)
    return COLUMNS.format(name[:8], len(visits), errors, full, *latency, memory, peak, files)


def main() -> int:
    """Run visitors, print the table, and return 1 for any error."""
    given = _parser().parse_args()
    with running_app(given.checkpoints) as app:
        soak = Soak(app, given.clients, given.seed)
        soak.run(60 * given.minutes, given.requests)
        print(soak.table())
        after = soak.rest()
        for name, usage in (("before", soak.start), ("after", after)):
            print(f"{name}: {usage}")
        print(f"Lines in the app's log: {len(app.log.splitlines())}")
        print(app.log[-2000:])
    return int(after is None or any(one.error for one in soak.visits))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8, help="how many visitors are there at a time")
    parser.add_argument("--requests", type=int, default=0, help="go on until there were so many")
    parser.add_argument("--checkpoints", default="bundled/resnet18", help="as BRAIN_XAI_CHECKPOINTS")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
