"""How the page is served: Gradio's settings, its queue, its limits."""

import contextlib
import logging
import os
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from starlette.middleware import Middleware

from brain_xai.ui import mcp, memory
from brain_xai.ui.calls import SentenceForErrors, refuse_request
from brain_xai.ui.guard import Guard, limit_headers
from brain_xai.ui.handlers import warm_up
from brain_xai.ui.language import labels
from brain_xai.ui.link_preview import ROUTE, add_link_preview
from brain_xai.ui.monitoring import route as monitoring_route
from brain_xai.ui.monitoring.monitor import CountStatuses, Monitor, count_calls
from brain_xai.ui.monitoring.settings import Settings
from brain_xai.ui.privacy import is_isolated, sweeping
from brain_xai.ui.visitors import NoStore, forget_names

# At five seconds a map the last visitor in a full queue waits for three minutes; longer queues would only time out.
QUEUE = {"max_size": 40}

# Everything that Gradio by default keeps, counts or reveals about visitors is off.
LAUNCH = {
    "enable_monitoring": False,
    "run_history": False,
    "show_error": False,  # messages of unexpected errors name files
    "ssr_mode": False,
    "footer_links": ["api"],
    # Above our own limit of 20 MB, so that a file of 50 MB is refused with our sentence instead of "413".
    "max_file_size": "64mb",
    "state_session_capacity": 1000,
    "css_paths": Path(__file__).with_name("style.css"),
    "theme": gr.themes.Default(  # system fonts: the page loads nothing from other servers
        primary_hue="teal",  # orange and blue have a meaning here
        text_size="lg",
        font=["system-ui", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ),
}


def launch(page: gr.Blocks, *, prevent_thread_lock: bool = False, **settings: Any) -> tuple:
    """Serve a page with `LAUNCH`, `QUEUE`, and Gradio's own `settings`, such as a port; then get ready for visitors.

    Returns what Gradio's `launch` does, at the end of the server unless `prevent_thread_lock` is set. Raises
    `RuntimeError` if the page was built without `isolate_upload_folder`.
    """
    if not is_isolated(page.GRADIO_CACHE):
        raise RuntimeError("Call isolate_upload_folder() before build_page(): uploads would be kept.")
    memory.share_memory()
    forget_names()
    limit_headers()
    quiet_decoders()
    leave_out_matplotlib()
    register_at_zero_gpu()
    add_link_preview()
    monitored = Settings.from_environment()
    monitor = Monitor(monitored) if monitored.is_counting else None
    if monitor:
        count_calls(page, monitor.store)
    own = {**LAUNCH, "i18n": labels(), "app_kwargs": app_settings(monitor), "mcp_server": mcp.is_wanted()}
    try:
        served = page.queue(**QUEUE).launch(**own, prevent_thread_lock=True, **settings)
        mcp.limit_tools(page)
        warm_up()  # in this thread, while others serve the page
        if not prevent_thread_lock:
            page.block_thread()
    finally:
        if monitor and not prevent_thread_lock:
            monitor.close()
    return served


def app_settings(monitor: Monitor | None) -> dict:
    """Return what Gradio's app gets: own routes, what answers leave out, and how it says what it cannot handle."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with sweeping(app), monitor.saving() if monitor else contextlib.nullcontext():
            yield

    counting = [Middleware(CountStatuses, store=monitor.store)] if monitor else []
    return {
        "lifespan": lifespan,
        "routes": [ROUTE, *monitoring_route.routes(monitor)],
        "middleware": [*counting, Middleware(Guard), Middleware(NoStore), Middleware(SentenceForErrors)],
        "exception_handlers": {RequestValidationError: refuse_request},
    }


def quiet_decoders() -> None:
    """Keep libraries that read images from writing to the log what they find in a damaged one."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for name in ("PIL", "nibabel"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # has a level of its own


def leave_out_matplotlib() -> None:
    """Keep Gradio from preparing for plots at every call, for which it imports matplotlib where that is installed.

    Captum brings it. Its import kept the first visitor waiting for .3 s, and the app draws no plots with it.
    """
    gr.utils.MatplotlibBackendMananger = contextlib.nullcontext


def register_at_zero_gpu() -> None:
    """Name a function for the GPU on a ZeroGPU Space, which stops apps without one; elsewhere do nothing.

    The models stay on the CPU there, too: they answer in less time than it takes to be lent a GPU.
    """
    if os.environ.get("SPACES_ZERO_GPU"):
        import spaces  # only there is it installed

        spaces.GPU(warm_up)
