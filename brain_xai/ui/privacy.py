"""Nothing a visitor uploads is kept: files live in a folder of our own that is swept while the app runs."""

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


def make_gradio_forget() -> None:
    """Give gradio a new folder for its files, which ends with the process, and stop it counting who asks what when.

    Must run before a page is built: gradio reads these settings then.
    """
    folder = tempfile.mkdtemp(prefix="brain-xai-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if threading.current_thread() is threading.main_thread():
        # Docker and systemd stop a server by SIGTERM, which would skip the line above.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)  # never, which also spares the import of pandas


def sweep(folder: Path, keep: Collection[str], seconds: float) -> None:
    """Delete all that is older than `seconds`, but for the files named in `keep`.

    Gradio's own `delete_cache` does the same for files it knows. It forgets uploads that broke off, and leaves folders
    named after the content of what was in them.
    """
    limit = time.time() - seconds
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError):  # gone meanwhile, or a folder in use
            if path.stat().st_ctime > limit or str(path) in keep:
                continue
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


@contextlib.asynccontextmanager
async def sweeping(app) -> AsyncIterator[None]:
    """Sweep the folder of a gradio app for as long as it serves: a lifespan handler."""
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
