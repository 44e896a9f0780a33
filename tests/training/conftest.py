"""Boxed scans and the folder of a run on them, made once for all tests of measurements."""

from pathlib import Path

import pytest

from tests.helpers.boxed import write_boxed_scans, write_tiny_run


@pytest.fixture(scope="session")
def boxed_data(tmp_path_factory) -> Path:
    return write_boxed_scans(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_checkpoint(boxed_data, tmp_path_factory) -> Path:
    """Copy it before writing into it."""
    return write_tiny_run(tmp_path_factory.mktemp("runs") / "tiny", boxed_data)
