"""Work that takes seconds runs in a thread of its own, so that it can be watched and stopped."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from brain_xai.explanation import Cancelled

Result = TypeVar("Result")


class Progress(Protocol):
    """What work calls to tell how far it has come, and what there is to see by now (a map, say), if anything."""

    def __call__(self, done: int, total: int, preview: Any = None) -> None: ...


class Step(NamedTuple):
    """How far work has come."""

    done: int
    total: int
    preview: Any = None


class Work(Generic[Result]):
    """A running `function(progress)`; its `progress` passes steps on, and raises `Cancelled` once stopped.

    Iterate over it to get each `Step` and, after the last, ask for `result()`; or await `finished()`.
    Both raise what the function raises. Whoever sets `stopped` ends the work at its next step.
    """

    def __init__(self, function: Callable[[Progress], Result], stopped: threading.Event):
        self._stopped = stopped
        self._steps: SimpleQueue[Step | None] = SimpleQueue()
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="work")
        self._future: Future[Result] = pool.submit(function, self._progress)
        self._future.add_done_callback(lambda _: self._steps.put(None))
        pool.shutdown(wait=False)  # the thread ends with its work

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.get, None)

    def result(self) -> Result:
        return self._future.result()

    async def finished(self) -> Result:
        return await asyncio.wrap_future(self._future)

    def _progress(self, done: int, total: int, preview: Any = None) -> None:
        if self._stopped.is_set():
            raise Cancelled
        self._steps.put(Step(done, total, preview))
