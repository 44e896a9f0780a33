"""Measure what an answer over HTTP costs beyond its forward pass, and whether a second process answers more.

    python tests/benchmarks/answers.py [--requests 30] [--clients 4] [--image FILE]

Uploads one scan and asks `/predict` again and again, one request at a time: how long it takes, how much processor time
the server spends, and how much of that are the parts that are measured alone (reading, preparing, the forward pass,
the warnings). The floor is preparing and one forward pass. Then several clients mix `/predict` and `/explain` on one
server with two threads, and on two servers with one thread each. Needs Linux. Loopback only.
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this script is started by its path
from brain_xai import load_checkpoint
from tests.benchmarks.startup import ROOT, ask, is_served, settle, usage
from tests.helpers.scans import make_scan
from tests.helpers.served import free_port

ENDPOINTS = ("predict", "explain")


@contextlib.contextmanager
def served(threads: int) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run the app with so many threads of torch; yield its address and process once it has nothing left to prepare."""
    port = free_port()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, ROOT / "app.py"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            while not is_served(address := f"http://127.0.0.1:{port}/"):
                time.sleep(0.05)
            settle(process)
            yield address, process
        finally:
            process.terminate()


def measure_one_by_one(scan: bytes, requests: int) -> dict[str, float]:
    """Ask `/predict` one request at a time; milliseconds."""
    with served(threads=1) as (address, process):
        for _ in range(5):
            ask(address, scan, "predict")
        before = usage(process)[0]
        seconds = [ask(address, scan, "predict") for _ in range(requests)]
        spent = (usage(process)[0] - before) / requests
    return {"over HTTP: elapsed, median": 1000 * statistics.median(seconds), "over HTTP: server CPU": 1000 * spent}


def measure_parts(scan: bytes) -> dict[str, float]:
    """Measure the parts of an answer in this process, by processor time; milliseconds."""
    classifier = load_checkpoint("default")
    image = Image.open(io.BytesIO(scan)).convert("RGB")
    prepared = classifier.prepare(image)
    output = classifier.forward(prepared.pixel_values)
    parts = {
        "decoding": lambda: Image.open(io.BytesIO(scan)).convert("RGB"),
        "preparing": lambda: classifier.prepare(image),
        "forward pass": lambda: classifier.forward(prepared.pixel_values),
        "warnings": lambda: classifier.prediction(output, prepared.looks),
    }
    return {f"alone: {name}": 1000 * fastest(work) for name, work in parts.items()}


def fastest(work: Callable[[], object], times: int = 20) -> float:
    """Return the least processor seconds that some work takes."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def measure_throughput(scan: bytes, requests: int, clients: int, threads: tuple[int, ...]) -> float:
    """Return the answers per second to mixed requests, with a server of so many threads for each entry of `threads`."""
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(served(count))[0] for count in threads]
        for address in addresses:
            ask(address, scan, "explain")
        calls = [
            (addresses[number % len(addresses)], scan, ENDPOINTS[number // len(addresses) % len(ENDPOINTS)])
            for number in range(requests)
        ]
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda call: ask(*call), calls))
        return requests / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--image", type=Path, help="default: a synthetic scan")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.image:
        scan = settings.image.read_bytes()
    else:
        make_scan("glioma", 0, side=512).save(buffer := io.BytesIO(), "PNG")
        scan = buffer.getvalue()
    figures = measure_parts(scan) | measure_one_by_one(scan, settings.requests)
    floor = figures["alone: preparing"] + figures["alone: forward pass"]
    for name, milliseconds in figures.items():
        print(f"{name:28} {milliseconds:8.1f} ms")
    print(f"{'floor: preparing + pass':28} {floor:8.1f} ms")
    print(f"{'server CPU / floor':28} {figures['over HTTP: server CPU'] / floor:8.2f}")
    print(f"{'elapsed / floor':28} {figures['over HTTP: elapsed, median'] / floor:8.2f}")
    for name, threads in (("one server, two threads", (2,)), ("two servers, one thread each", (1, 1))):
        print(f"{name:28} {measure_throughput(scan, settings.requests, settings.clients, threads):8.2f} answers/s")
    print(f"load average: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
