"""Measure how fast training.score answers an archive, next to the model alone.

    python tests/benchmarks/scoring.py --input FOLDER [--checkpoint bundled/resnet18] [--limit 1404] [--processes 1 2]

Every process computes on one thread, as does the model alone, on batches that are ready in memory. Prints images per
second with and without maps, and their share of the model alone times the number of processes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this script is started by its path
from brain_xai import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
BATCH, ROUNDS = 32, 6
RATE = re.compile(r"process \d+: ([\d.]+) images/s")


def bare_rate(checkpoint: str) -> float:
    """Return images per second of the model alone on one thread, the best of some batches."""
    torch.set_num_threads(1)
    classifier = load_checkpoint(checkpoint)
    images, seconds = torch.randn(BATCH, 3, *classifier.preprocessing.size), []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        classifier.logits(images)
        seconds.append(time.perf_counter() - started)
    return BATCH / min(seconds)


def subset(folder: Path, limit: int, into: Path) -> int:
    """Link evenly chosen files of a folder into another one; returns their number."""
    files = sorted(file for file in folder.resolve().rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = files[:: max(len(files) // limit, 1)][:limit] if limit else files
    for number, file in enumerate(chosen):
        (into / f"{number:06d}{file.suffix}").symlink_to(file)
    return len(chosen)


def score_rate(given: argparse.Namespace, images: Path, processes: int, maps: bool) -> float:
    """Return images per second of all processes together, without their start."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "training.score", "--checkpoint", given.checkpoint, "--input", str(images)]
        words += ["--output", f"{folder}/answers.parquet", "--workers", str(given.workers), "--chunk", "128"]
        words += ["--maps", "grad_cam"] if maps else []
        launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        launch += ["--nproc_per_node", str(processes)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "TQDM_DISABLE": "1"}
        command = [sys.executable, *(launch if processes > 1 else []), *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    rates = [float(rate) for rate in RATE.findall(done.stdout)]
    if done.returncode or len(rates) != processes:
        raise SystemExit(done.stderr[-3000:])
    return sum(rates)


def main() -> None:
    """Parse the command line, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of images")
    parser.add_argument("--checkpoint", default="bundled/resnet18")
    parser.add_argument("--limit", type=int, default=1404, help="number of images, 0 for all")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, default=1, help="processes that read, for each that answers")
    given = parser.parse_args()
    bare = bare_rate(given.checkpoint)
    print(f"{given.checkpoint} alone: {bare:.1f} images/s on one thread", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        count = subset(given.input, given.limit, Path(folder))
        print(f"\n| {count:,} images | images/s | share of the model alone |\n| --- | ---: | ---: |")
        for processes in given.processes:
            for maps in (False, True):
                rate = score_rate(given, Path(folder), processes, maps)
                name = f"{processes} process{'es' * (processes > 1)}, {'with Grad-CAM' if maps else 'no maps'}"
                print(f"| {name} | {rate:.1f} | {rate / (bare * processes):.0%} |", flush=True)


if __name__ == "__main__":
    main()
