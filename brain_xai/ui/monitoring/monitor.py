"""Counting what the app does: every call of an endpoint or of a handler of the page passes here, once.

Nothing about a visitor or an image is counted: no address, no name, no time but the hour.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brain_xai.classifier import Prediction
from brain_xai.ui.monitoring.counts import bucket_of
from brain_xai.ui.monitoring.hub import HubCopy
from brain_xai.ui.monitoring.settings import Settings
from brain_xai.ui.monitoring.store import Store

SAVE_SECONDS = 60
RECONNECT_SECONDS = 300


@dataclass(eq=False)
class Call:
    """One call of an endpoint or of a handler; a handler that answers in steps is one call."""

    store: Store
    endpoint: str
    start: float = field(default_factory=time.perf_counter)
    is_over: bool = False

    def __post_init__(self):
        self.store.add("calls", self.endpoint)

    def refused(self) -> None:
        """The caller got a sentence that says what is wrong with the call."""
        self._end("refusals", self.endpoint)

    def failed(self) -> None:
        """The app has a defect."""
        self._end("errors", self.endpoint)

    def answered(self) -> None:
        """The caller got the last step of the answer."""
        self._end("took", self.endpoint, bucket_of(time.perf_counter() - self.start))

    def _end(self, *key: str) -> None:
        if not self.is_over:
            self.is_over = True
            self.store.add(*key)


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def count_refusal() -> None:
    """Count the current call as refused; for handlers that show the reason instead of raising it."""
    if call := _current.get():
        call.refused()


def count_answer(prediction: Prediction) -> None:
    """Count the class, its probability and the warnings of an answer to the current call."""
    if not (call := _current.get()):
        return  # nobody asked: the app warms up
    info, label = prediction.checkpoint, prediction.label
    # A folder on this machine is named without its path.
    name = Path(info.id).name if Path(info.id).is_dir() else info.id
    checkpoint = f"{name} ({info.revision[:8]})"
    call.store.add("labels", checkpoint, label)
    call.store.add("probability", checkpoint, label, amount=prediction.probabilities[label])
    for warning in prediction.warnings:
        call.store.add("warnings", warning.code)


def count_calls(page: gr.Blocks, store: Store) -> None:
    """Count every call of the page and of its API from now on."""
    process_api = page.process_api
    # The calls that answer in steps, until the last one. A visitor who leaves takes the steps with him.
    unfinished: WeakKeyDictionary[Any, Call] = WeakKeyDictionary()

    async def counted(block_fn: Any, inputs: Any, state: Any = None, request: Any = None, iterator: Any = None, **more):
        call = (unfinished.pop(iterator, None) if iterator is not None else None) or Call(store, _name(block_fn))
        token = _current.set(call)
        try:
            output = await process_api(block_fn, inputs, state, request, iterator, **more)
        except gr.Error:
            call.refused()
            raise
        except Exception:
            call.failed()
            raise
        finally:
            _current.reset(token)
        if output.get("is_generating") and output.get("iterator") is not None:
            unfinished[output["iterator"]] = call
        else:
            call.answered()
        return output

    page.process_api = counted


class CountStatuses:
    """Middleware: count what is answered with an error before it reaches an endpoint, such as a full queue."""

    def __init__(self, app: ASGIApp, store: Store):
        self._app, self._store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._store.add("http", str(message["status"]))
            await send(message)

        await self._app(scope, receive, watched)


class Monitor:
    """The counters of an app while it is served, on this machine and, where it is set, on the Hub."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.store = Store(settings.folder)
        self.hub = HubCopy(self.store, settings.dataset) if settings.dataset else None

    @contextlib.asynccontextmanager
    async def saving(self) -> AsyncIterator[None]:
        """Save every minute, and connect to the Hub as soon as it is there."""
        tasks = [asyncio.create_task(self._save()), asyncio.create_task(self._connect())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(self.store.save)

    def close(self) -> None:
        """Save what was counted last."""
        self.store.save()
        if self.hub:
            self.hub.close()

    def where(self) -> str:
        """Return in a sentence where the counters are copied to."""
        if self.hub is None:
            return "The counters are kept on this machine only."
        state = "" if self.hub.is_connected else ", which cannot be reached at the moment"
        return f"The counters are kept on this machine and copied to the data set {self.hub.repo_id} on the Hub{state}."

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await asyncio.to_thread(self.store.save)

    async def _connect(self) -> None:
        while self.hub and not await asyncio.to_thread(self._try_to_connect):
            await asyncio.sleep(RECONNECT_SECONDS)

    def _try_to_connect(self) -> bool:
        try:
            self.hub.connect()
        except Exception as error:  # whatever the Hub or its client does, the app goes on
            print(f"Monitoring: the data set on the Hub cannot be reached ({type(error).__name__}).", file=sys.stderr)
            return False
        return True


def _name(block_fn: Any) -> str:
    """Return the name of what is called: an endpoint of the API by its address, a handler of the page by its name."""
    is_public = getattr(block_fn, "api_visibility", "public") == "public"
    return f"/{block_fn.api_name}" if is_public else f"page: {block_fn.name}"
