"""Work for a caller of the API, who sees its progress and may cancel it."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import gradio as gr

from brain_xai.ui.jobs import LANE, BackgroundJob, Progress

Answer = TypeVar("Answer")
# How often a caller gets what is done so far.
PARTIAL_SECONDS = 1.0


async def run_for_caller(
    work: Callable[[Progress], Answer], unit: str = "passes", *, gives_way: bool = False
) -> Answer:
    """Run work in the background, reporting its progress; when the caller cancels, it also ends on the server.

    Args:
        work: What to run.
        unit: What its progress counts.
        gives_way: Whether the work of others has its turn at each step; only where the work holds no lock then.

    Returns:
        What `work` returns.
    """
    answers = [answer async for answer in stream_for_caller(work, unit, gives_way=gives_way, partial=False)]
    return answers[-1]


async def stream_for_caller(
    work: Callable[[Progress], Answer], unit: str, *, gives_way: bool = False, partial: bool = True
) -> AsyncIterator[Answer]:
    """Run work like `run_for_caller`; if `partial`, also yield previews of its answer, which who cancels keeps."""
    stop_event, latest = threading.Event(), []
    report, context = gr.Progress(), contextvars.copy_context()  # Gradio finds the caller in the context

    def reporting(progress: Progress) -> Answer:
        def step(done: int, total: int, preview: Answer | None = None) -> None:
            context.run(report, (done, total), unit=unit)
            if partial and preview is not None:
                latest[:] = [preview]
            progress(done, total)
            if gives_way:
                LANE.give_way()

        return work(step)

    result = asyncio.ensure_future(BackgroundJob(reporting, stop_event).wait())
    try:
        while not (await asyncio.wait([result], timeout=PARTIAL_SECONDS if partial else None))[0]:
            if latest:
                yield latest.pop()
        yield result.result()
    finally:
        stop_event.set()
        # After a cancel nobody waits for the rest; an exception that nobody looks at would be logged with a traceback.
        result.add_done_callback(lambda task: task.cancelled() or task.exception())
