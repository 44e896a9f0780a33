"""What a checkpoint costs on this machine, measured in a process of its own: size, seconds per image, memory.

python -m training.evaluation.cost CHECKPOINT
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from brain_xai.checkpoint.catalog import checkpoint_folder, load_checkpoint
from brain_xai.checkpoint.schema import WEIGHTS_NAME
from brain_xai.explanation import explain

REPEATS = 20
# ru_maxrss is in bytes on a Mac, and in kilobytes elsewhere.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
LINUX_STATUS = Path("/proc/self/status")


def measure_cost(checkpoint: str) -> dict:
    """Load a checkpoint and use it on one image at a time.

    Returns:
        "parameters", "file_megabytes", "prediction_ms" and "grad_cam_ms" (medians, the latter with the prediction),
        "peak_megabytes" that loading and using it added to the process, "threads".
    """
    before = _peak_megabytes()
    classifier = load_checkpoint(checkpoint)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8))
    prediction = _median_ms(lambda: classifier.predict(image))
    grad_cam = _median_ms(lambda: explain(classifier, image, "grad_cam"))
    return {
        "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
        "file_megabytes": (checkpoint_folder(checkpoint) / WEIGHTS_NAME).stat().st_size / 1e6,
        "prediction_ms": prediction,
        "grad_cam_ms": grad_cam,
        "peak_megabytes": _peak_megabytes() - before,
        "threads": torch.get_num_threads(),
    }


def cost_in_new_process(checkpoint: str) -> dict:
    """Return what `measure_cost` gives in a fresh process, where no earlier model has filled the memory."""
    command = [sys.executable, "-m", "training.evaluation.cost", checkpoint]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _median_ms(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _peak_megabytes() -> float:
    # On Linux, ru_maxrss begins with that of the process that started this one, which is larger than this will get.
    if LINUX_STATUS.is_file():
        return int(re.search(r"VmHWM:\s+(\d+)", LINUX_STATUS.read_text()).group(1)) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder, or bundled/<name>")
    print(json.dumps(measure_cost(parser.parse_args().checkpoint)))
