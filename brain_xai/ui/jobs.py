"""Work that takes seconds: the lane it waits in, and a thread in which it can be watched and stopped."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from brain_xai.explanation import Cancelled

# Gradio's queues: functions that share a `concurrency_id` wait for each other. Quick predictions are never blocked by
# slow maps. What the page draws waits in `LANE` instead, which tells the place and lets short work pass.
QUICK = {"concurrency_id": "quick", "concurrency_limit": 1}
SLOW = {"concurrency_id": "slow", "concurrency_limit": 1}
PAGE = {"concurrency_id": "page", "concurrency_limit": 24}
POLL_SECONDS = 0.5

Result = TypeVar("Result")


class Progress(Protocol):
    """Called by work to report how far it is, and what can be shown of its result so far, if anything."""

    def __call__(self, done: int, total: int, preview: Any = None) -> None: ...


class Step(NamedTuple):
    """How far a job is."""

    done: int
    total: int
    preview: Any = None


class Waiting(NamedTuple):
    """How many jobs are before this one, and about how many seconds they take."""

    before: int
    seconds: float


@dataclass(eq=False)
class Ticket:
    """A place in a lane: how long its work takes, about, and what ends it."""

    stop_event: threading.Event
    seconds: float = 0.0


class Lane:
    """One job at a time, first come, first served."""

    def __init__(self):
        self._tickets: list[Ticket] = []  # the first one has the lane
        self._changed = threading.Condition()
        self._is_closed = False

    def enter(self, ticket: Ticket) -> None:
        """Join the end of the queue, without waiting."""
        with self._changed:
            self._tickets.append(ticket)
            if self._is_closed:
                ticket.stop_event.set()

    def close(self) -> None:
        """Stop all work, also that which comes now: the app ends, and Python waits for the threads of its jobs.

        A signal handler may call this. It takes no lock, which the thread that it interrupts may hold.
        """
        self._is_closed = True
        for ticket in list(self._tickets):
            ticket.stop_event.set()

    def wait(self, ticket: Ticket) -> None:
        """Wait until a ticket has the lane; raises `Cancelled` if its work is stopped before."""
        with self._changed:
            while self._tickets[0] is not ticket:
                if ticket.stop_event.is_set():
                    raise Cancelled
                self._changed.wait(POLL_SECONDS)  # an event cannot notify

    def leave(self, ticket: Ticket) -> None:
        """Let the next one have the lane."""
        with self._changed:
            self._tickets.remove(ticket)
            self._changed.notify_all()

    def give_way(self) -> None:
        """Let those who wait have their turn first; only for the work that has the lane, where it holds no lock."""
        with self._changed:
            ticket = self._tickets.pop(0)
            self._tickets.append(ticket)
            self._changed.notify_all()
        self.wait(ticket)

    def before(self, ticket: Ticket) -> Waiting:
        """Return who waits before a ticket."""
        with self._changed:
            others = self._tickets[: self._tickets.index(ticket)] if ticket in self._tickets else []
            return Waiting(len(others), sum(other.seconds for other in others))


LANE = Lane()


class BackgroundJob(Generic[Result]):
    """A running `function(progress)`; its `progress` passes steps on, and raises `Cancelled` after a stop.

    Iterate over it to get each `Step`, and `Waiting` while others are before it, then call `result()`; or await
    `wait()`. Both raise what the function raises. Setting `stop_event` ends the work at its next step.
    """

    def __init__(
        self,
        function: Callable[[Progress], Result],
        stop_event: threading.Event,
        seconds: float = 0.0,
        lane: Lane = LANE,
    ):
        self._ticket, self._lane = Ticket(stop_event, seconds), lane
        self._steps: SimpleQueue[Step | None] = SimpleQueue()
        lane.enter(self._ticket)
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")
        # In the context of the caller, and so in the visitor's language.
        self._future: Future[Result] = pool.submit(copy_context().run, self._work, function)
        self._future.add_done_callback(lambda _: self._steps.put(None))
        pool.shutdown(wait=False)  # the thread ends with its work

    def __iter__(self) -> Iterator[Step | Waiting]:
        """Yield each step as soon as it is reported."""
        while True:
            try:
                step = self._steps.get(timeout=POLL_SECONDS)
            except Empty:
                waiting = self._lane.before(self._ticket)
                if waiting.before:
                    yield waiting
                continue
            if step is None:
                return
            yield step

    def result(self) -> Result:
        """Wait for the work, and return what the function returns."""
        return self._future.result()

    async def wait(self) -> Result:
        """Wait for the work without blocking the event loop, and return what the function returns."""
        return await asyncio.wrap_future(self._future)

    def _work(self, function: Callable[[Progress], Result]) -> Result:
        try:
            self._lane.wait(self._ticket)
            return function(self._progress)
        finally:
            self._lane.leave(self._ticket)

    def _progress(self, done: int, total: int, preview: Any = None) -> None:
        if self._ticket.stop_event.is_set():
            raise Cancelled
        self._steps.put(Step(done, total, preview))
