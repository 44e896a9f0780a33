"""Isolate every test from the network and from the home folder; say where real scans are.

Real scans are read from the folder named by BRAIN_XAI_TEST_DATA, else from ../shared/data. Tests that need them are
skipped where they are missing.
"""

import atexit
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

# Hugging Face libraries read these once, when they are imported. Each worker of a parallel run has a home of its own.
_HOME = tempfile.mkdtemp(prefix="brain-xai-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
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
if "PYTEST_XDIST_WORKER" in os.environ:  # workers that each take all cores slow each other down
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("BRAIN_XAI_TEST_DATA", ROOT.parent / "shared" / "data"))
MAX_WORKERS = 4  # each loads torch, about 1 GB

_connect = socket.socket.connect


def _connect_to_loopback_only(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise RuntimeError(f"A test tried to reach {address}: only loopback is allowed.")
    return _connect(self, address)


socket.socket.connect = _connect_to_loopback_only


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes run the tests: one per core for all tests, none beside pytest for chosen ones."""
    if config.args_source is not config.ArgsSource.TESTPATHS:
        return 0
    return min(os.cpu_count() or 1, MAX_WORKERS)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real scans, with brain-tumor-mri/Training and brain-tumor-mri/Testing in it."""
    if not (DATA / "brain-tumor-mri").is_dir():
        pytest.skip("no real scans: set BRAIN_XAI_TEST_DATA to a folder that holds the data set as brain-tumor-mri/")
    return DATA
