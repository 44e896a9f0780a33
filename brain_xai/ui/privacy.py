"""Nothing a visitor uploads is kept: files are in a folder of their own that is swept while the app runs."""

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path

KEPT_MINUTES = 15
SWEEP_SECONDS = 60

_isolated_folders: set[str] = set()


def isolate_upload_folder() -> None:
    """Give Gradio a new folder that is deleted when the process ends, and turn off its request analytics.

    Call it before a page is built: Gradio reads these settings then. A second call changes nothing, so that a page
    that is reloaded while it is developed keeps its folder.
    """
    if is_isolated(os.environ.get("GRADIO_TEMP_DIR", "")):
        return
    folder = tempfile.mkdtemp(prefix="brain-xai-")
    _isolated_folders.add(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if threading.current_thread() is threading.main_thread():
        # Docker and systemd stop a server with SIGTERM, which does not run exit handlers by itself.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)  # never, which also avoids the import of pandas


def is_isolated(folder: str) -> bool:
    """Return whether `isolate_upload_folder` made this folder."""
    return folder in _isolated_folders


def sweep(folder: Path, keep: Collection[str], seconds: float) -> None:
    """Delete everything older than `seconds`, except the files named in `keep`.

    Gradio's own `delete_cache` does the same for the files it knows about. It forgets interrupted uploads, and leaves
    behind folders named after the content of their files.
    """
    limit = time.time() - seconds
    for path in sorted(folder.rglob("*"), reverse=True):  # the content of a folder before the folder
        with contextlib.suppress(OSError):  # already gone, or a folder in use
            if path.stat().st_ctime > limit or str(path) in keep:
                continue
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


@contextlib.asynccontextmanager
async def sweeping(app) -> AsyncIterator[None]:
    """Sweep the upload folder of a Gradio app while it serves: a lifespan handler."""
    blocks = app.get_blocks()

    async def forever() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            examples = {file for block in list(blocks.blocks.values()) for file in block.keep_in_cache}
            await asyncio.to_thread(sweep, Path(app.uploaded_file_dir), examples, 60 * KEPT_MINUTES)

    task = asyncio.create_task(forever())
    try:
        yield
    finally:
        task.cancel()
