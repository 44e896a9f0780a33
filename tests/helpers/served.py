"""The page on a free port of this machine, for tests, with tiny checkpoints that have learned nothing."""

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import timm
import torch

from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.preprocess import Preprocessing
from brain_xai.ui.hub_follower import prefetch
from brain_xai.ui.page import build_page
from brain_xai.ui.privacy import isolate_upload_folder
from brain_xai.ui.serving import launch
from tests.helpers.scans import make_scan

METRICS = {
    "split": "purged",
    "seed": 3,
    "validation": {"macro_f1": {"value": 0.5, "low": 0.4, "high": 0.6}},
    "test": {"accuracy": {"value": 0.951, "low": 0.939, "high": 0.962}, "n": 1311},
    "history": [{"epoch": 0}],
}


def save_tiny_checkpoint(
    folder: Path, label_names: tuple[str, ...], architecture: str = "test_resnet", side: int = 64
) -> str:
    """Write a checkpoint with random weights and return its id."""
    torch.manual_seed(0)
    save_checkpoint(
        folder,
        timm.create_model(architecture, num_classes=len(label_names)),
        label_names=label_names,
        preprocessing=Preprocessing(size=(side, side), mean=(0.5,) * 3, std=(0.5,) * 3),
        brain_xai={"temperature": 0.5},
    )
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return str(folder)


def add_case(checkpoint: str, label: str) -> None:
    """Give a checkpoint a case whose truth is known, as the published ones have."""
    folder = Path(checkpoint) / "examples"
    folder.mkdir()
    make_scan(label, 5, side=120).save(folder / "scan.png")
    (folder / "cases.csv").write_text(f"file,caption,label,credit,lesson\nscan.png,A drawing,{label},drawn,Look.\n")


def free_port() -> int:
    """Return a free port; gradio's own search leaves a socket open for each one that is taken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(*checkpoints: str) -> Iterator[tuple[gr.Blocks, str]]:
    """Serve the page with these checkpoints; yields the page and its address."""

    # Without a running event loop Gradio makes new ones and leaves them open.
    async def start() -> tuple[gr.Blocks, str]:
        isolate_upload_folder()
        prefetch(checkpoints)
        page = build_page()
        while True:
            try:
                return page, launch(page, server_port=free_port(), prevent_thread_lock=True, quiet=True)[1]
            except OSError:  # another process took the port first
                continue

    before = dict(os.environ)
    os.environ["BRAIN_XAI_CHECKPOINTS"] = ",".join(checkpoints)
    os.environ.pop("GRADIO_TEMP_DIR", None)  # a folder of its own for each page
    try:
        with ThreadPoolExecutor() as pool:  # playwright keeps a loop of its own running in the main thread
            page, address = pool.submit(asyncio.run, start()).result()
        yield page, address
        page.close(verbose=False)
    finally:
        os.environ.clear()
        os.environ.update(before)


def upload(path: Path) -> dict:
    """Return what Gradio passes to a handler for an uploaded file."""
    return {"path": str(path), "orig_name": path.name}


def job_threads() -> list[threading.Thread]:
    """Return the threads of the background jobs that are running."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("job")]


def wait_until(condition: Callable[[], object], seconds: float = 120) -> bool:
    """Wait until a condition holds, long enough for a busy machine, and return whether it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
