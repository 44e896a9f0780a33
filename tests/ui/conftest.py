"""What the tests of the page and the API share: a scan, and checkpoints that have learned nothing."""

from pathlib import Path

import gradio as gr
import pytest

from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import save_tiny_checkpoint, served


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ui")


@pytest.fixture(scope="module")
def tiny(folder) -> str:
    return save_tiny_checkpoint(folder / "tiny", LABELS)


@pytest.fixture(scope="module")
def slow(folder) -> str:
    """A checkpoint for which occlusion takes seconds, in eight batches."""
    return save_tiny_checkpoint(folder / "slow", ("low_grade", "high_grade"), side=512)


@pytest.fixture(scope="module")
def transformer(folder) -> str:
    """A checkpoint on which Grad-CAM does not work."""
    return save_tiny_checkpoint(folder / "transformer", LABELS, "test_vit", side=160)


@pytest.fixture(scope="module")
def scan(folder) -> Path:
    path = folder / "scan.png"
    make_scan("glioma", 0, side=90).save(path)
    return path


@pytest.fixture(scope="module")
def app(tiny):
    """The page and its address, served while the tests of a file run."""
    with served(tiny) as page_and_address:
        yield page_and_address


@pytest.fixture(scope="module")
def page(app) -> gr.Blocks:
    return app[0]


@pytest.fixture(scope="module")
def address(app) -> str:
    return app[1]
