"""Work for a caller of the API, who sees its progress and may cancel it."""

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

import gradio as gr

from brain_xai.ui.jobs import BackgroundJob, Progress

Answer = TypeVar("Answer")


async def run_for_caller(work: Callable[[Progress], Answer], unit: str = "passes") -> Answer:
    """Run work in the background, reporting its progress; when the caller cancels, it also ends on the server."""
    stop_event = threading.Event()
    report, context = gr.Progress(), contextvars.copy_context()  # Gradio finds the caller in the context

    def reporting(progress: Progress) -> Answer:
        def step(done: int, total: int, preview: object = None) -> None:
            context.run(report, (done, total), unit=unit)
            progress(done, total)

        return work(step)

    job = BackgroundJob(reporting, stop_event)
    try:
        return await job.wait()
    finally:
        stop_event.set()
