"""Nothing a visitor uploads is kept: files are in a folder of their own that is swept while the app runs."""

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from brain_xai.ui.jobs import LANE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

KEPT_MINUTES = 15
SWEEP_SECONDS = 60

PREFIX = "brain-xai-"
# A running app holds a lock on this file beside its uploads. The file names the process for people; a program cannot
# go by that number, because it may be another process by now, or one of another container.
LOCK_NAME = "process"
# Runs beside the app with nothing but Python: its input ends with the app, however that ends, also by a kill.
DELETER = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


def isolate_upload_folder() -> None:
    """Give Gradio a new folder that is deleted when the process ends, and turn off its request analytics.

    It is also deleted when the process is killed, and what apps left behind that were killed together with their
    deleter is deleted now. Call it before a page is built: Gradio reads these settings then. A
    second call changes nothing, so that a page that is reloaded while it is developed keeps its folder.
    """
    if is_isolated(os.environ.get("GRADIO_TEMP_DIR", "")):
        return
    sweep_abandoned(Path(tempfile.gettempdir()))
    parent = Path(tempfile.mkdtemp(prefix=PREFIX))
    _lock(parent)
    folder = parent / "files"
    folder.mkdir()
    _delete_at_the_end(parent)
    if threading.current_thread() is threading.main_thread():
        # Docker and systemd stop a server with SIGTERM, which does not run exit handlers by itself, and kill it after
        # some seconds. The uploads go first, because work that is being done may take longer.
        signal.signal(signal.SIGTERM, lambda *_: _end(folder))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    if routes := sys.modules.get("gradio.routes"):  # it has read the setting, and makes a folder for each page
        routes.DEFAULT_TEMP_DIR = str(folder)
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)  # never, which also avoids the import of pandas


def _delete_at_the_end(parent: Path) -> None:
    """Have a folder deleted when this process ends: by itself, and by a process that waits for that."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-I", "-S", "-c", DELETER, str(parent)]
    # In a session of its own Ctrl-C does not reach it.
    deleter = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **silent)

    def delete() -> None:
        shutil.rmtree(parent, ignore_errors=True)
        deleter.stdin.close()
        deleter.wait()

    atexit.register(delete)


def _end(folder: Path) -> None:
    """Delete the uploads, and end the app as soon as the maps that are being computed can stop."""
    shutil.rmtree(folder, ignore_errors=True)
    LANE.close()
    sys.exit()


def is_isolated(folder: str) -> bool:
    """Return whether `isolate_upload_folder` made this folder in this process."""
    try:
        return (Path(folder).parent / LOCK_NAME).read_text() == f"{os.getpid()}\n"
    except OSError:
        return False


def sweep_abandoned(temporary: Path) -> None:
    """Delete the upload folders of apps that were killed; those of running apps and of other users stay."""
    if fcntl is None:
        return
    for folder in temporary.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # no lock file: an app that is just starting, or no app of ours
            if folder.lstat().st_uid == os.getuid() and not _is_running(folder):
                shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path, keep: Collection[str], seconds: float) -> None:
    """Delete everything older than `seconds`, except the files named in `keep`.

    Gradio's own `delete_cache` does the same for the files it knows about. It forgets interrupted uploads, and leaves
    behind folders named after the content of their files.
    """
    now = time.time()
    limit = now - seconds
    for path in sorted(folder.rglob("*"), reverse=True):  # the content of a folder before the folder
        with contextlib.suppress(OSError):  # already gone, or a folder in use
            # A file of the future was there before the clock was set back; it would stay until then.
            if limit < path.stat().st_ctime <= now + SWEEP_SECONDS or str(path) in keep:
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


def _lock(parent: Path) -> None:
    """Write the lock file of a folder, and hold its lock until the process ends, however it ends."""
    new = parent / f".{LOCK_NAME}"
    lock = os.open(new, os.O_CREAT | os.O_WRONLY, 0o600)  # never closed
    os.write(lock, f"{os.getpid()}\n".encode())
    if fcntl is None:
        os.close(lock)  # Windows does not rename open files
    else:
        fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(parent / LOCK_NAME)  # only now, so that no other app sees a lock file without its lock


def _is_running(parent: Path) -> bool:
    """Return whether the app that made a folder still runs; raises `OSError` if the folder has no lock file."""
    lock = os.open(parent / LOCK_NAME, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
