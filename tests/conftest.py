"""Every test runs cut off from the network and from the home folder; real scans are read from ../shared/data."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

# Before any Hugging Face library is imported: they read these once.
_HOME = tempfile.mkdtemp(prefix="brain-xai-tests-")
os.environ.update(
    HF_HOME=_HOME,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_TEMP_DIR=f"{_HOME}/gradio",
    MPLCONFIGDIR=_HOME,
    XDG_CACHE_HOME=_HOME,
)
os.environ.pop("BRAIN_XAI_CHECKPOINTS", None)

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"

_connect = socket.socket.connect


def _connect_to_loopback_only(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise RuntimeError(f"A test tried to reach {address}: only loopback is allowed.")
    return _connect(self, address)


socket.socket.connect = _connect_to_loopback_only


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real scans; the test is skipped where it is missing."""
    if not DATA.is_dir():
        pytest.skip("no real scans: ../shared/data is missing")
    return DATA
