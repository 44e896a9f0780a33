"""Work that takes seconds: the two queues it waits in, and a thread in which it can be watched and stopped."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from brain_xai.explanation import Cancelled

# Two queues for two CPUs, because functions that share a `concurrency_id` wait for each other: quick predictions are
# never blocked by slow maps.
QUICK = {"concurrency_id": "quick", "concurrency_limit": 1}
SLOW = {"concurrency_id": "slow", "concurrency_limit": 1}

Result = TypeVar("Result")


class Progress(Protocol):
    """Called by work to report how far it is, and what can be shown of its result so far, if anything."""

    def __call__(self, done: int, total: int, preview: Any = None) -> None: ...


class Step(NamedTuple):
    """How far a job is."""

    done: int
    total: int
    preview: Any = None


class BackgroundJob(Generic[Result]):
    """A running `function(progress)`; its `progress` passes steps on, and raises `Cancelled` after a stop.

    Iterate over it to get each `Step`, then call `result()`; or await `wait()`. Both raise what the function raises.
    Setting `stop_event` ends the work at its next step.
    """

    def __init__(self, function: Callable[[Progress], Result], stop_event: threading.Event):
        self._stop_event = stop_event
        self._steps: SimpleQueue[Step | None] = SimpleQueue()
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")
        self._future: Future[Result] = pool.submit(
            copy_context().run, function, self._progress
        )  # in the language of the visitor
        self._future.add_done_callback(lambda _: self._steps.put(None))
        pool.shutdown(wait=False)  # the thread ends with its work

    def __iter__(self) -> Iterator[Step]:
        """Yield each step as soon as it is reported."""
        return iter(self._steps.get, None)

    def result(self) -> Result:
        """Wait for the work, and return what the function returns."""
        return self._future.result()

    async def wait(self) -> Result:
        """Wait for the work without blocking the event loop, and return what the function returns."""
        return await asyncio.wrap_future(self._future)

    def _progress(self, done: int, total: int, preview: Any = None) -> None:
        if self._stop_event.is_set():
            raise Cancelled
        self._steps.put(Step(done, total, preview))
