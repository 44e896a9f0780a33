"""The app as it is deployed, `python app.py` in a process of its own, and what it uses of the machine."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.helpers.served import free_port

ROOT = Path(__file__).parents[2]
# A busy machine imports torch and gradio for a while.
START_SECONDS = 240


@dataclass(frozen=True)
class Usage:
    """What a process uses now, memory in MB, and the most memory it has used."""

    memory: float
    peak: float
    threads: int
    files: int


class RunningApp:
    """A running app: its `address`, its `process`, and the folder `temporary` in which it keeps uploads."""

    def __init__(self, process: subprocess.Popen, address: str, folder: Path):
        self.process, self.address, self.temporary = process, address, folder / "tmp"
        self._log = folder / "log"

    @property
    def log(self) -> str:
        """Return what the app has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        """Return whether the process has not ended."""
        return self.process.poll() is None

    def usage(self) -> Usage:
        """Return what the process uses (Linux)."""
        own = Path("/proc", str(self.process.pid))
        facts = dict(line.split(":", 1) for line in (own / "status").read_text().splitlines())
        memory, peak = (int(facts[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
        return Usage(memory, peak, int(facts["Threads"]), len(os.listdir(own / "fd")))

    def files(self) -> list[Path]:
        """Return the files of visitors that are on the disk."""
        return [path for path in self.temporary.glob("brain-xai-*/files/**/*") if path.is_file()]

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 60) -> float | None:
        """Send a signal and return after how many seconds the process ended; None, and kill it, if it did not."""
        started = time.monotonic()
        self.process.send_signal(how)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
        return time.monotonic() - started


@contextmanager
def running_app(
    checkpoints: str = "bundled/resnet18",
    temporary: Path | None = None,
    environment: Mapping[str, str] | None = None,
    command: tuple[str, ...] = (),
) -> Iterator[RunningApp]:
    """Start the app on a free port of this machine, and stop it at the end.

    Args:
        checkpoints: As BRAIN_XAI_CHECKPOINTS.
        temporary: The folder for temporary files, instead of a new one.
        environment: Further environment variables.
        command: What runs Python, such as a command that limits its memory.
    """
    with tempfile.TemporaryDirectory(prefix="app-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        port = free_port()
        variables = {
            **os.environ,
            "BRAIN_XAI_CHECKPOINTS": checkpoints,
            "BRAIN_XAI_MCP": "0",
            "GRADIO_SERVER_PORT": str(port),
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(temporary or folder / "tmp"),
            **(environment or {}),
        }
        variables.pop("GRADIO_TEMP_DIR", None)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, sys.executable, "app.py"], cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT
            )
        app = RunningApp(process, f"http://127.0.0.1:{port}", folder)
        app.temporary = temporary or app.temporary
        try:
            _wait(app)
            yield app
        finally:
            if app.is_running:
                app.stop()


def _wait(app: RunningApp) -> None:
    """Wait until the app answers and its model is loaded; raises `RuntimeError` if it ends before."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and app.is_running:
        try:
            httpx.get(f"{app.address}/config", timeout=60)
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"The app did not start:\n{app.log[-3000:]}")
