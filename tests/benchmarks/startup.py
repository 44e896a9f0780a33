"""Measure how soon the app serves its page, how much memory it takes, and how soon the first answer comes.

    python tests/benchmarks/startup.py [--rounds 3] [--image FILE] [--app app.py]

Prints the median of each figure and its ratio to what cannot be avoided: importing the app's modules, and the weights.
CPU seconds are printed, too, because other programs slow down the clock. Needs Linux, which tells what a process takes.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this script is started by its path
from brain_xai.checkpoint.catalog import bundled_checkpoints, checkpoint_folder
from tests.helpers.scans import make_scan
from tests.helpers.served import free_port

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
TICKS = os.sysconf("SC_CLK_TCK")
IMPORT = "import app, sys; print('imported', flush=True); sys.stdin.read()"


def usage(process: subprocess.Popen) -> tuple[float, float]:
    """Return the CPU seconds and the memory in MiB that a running process has used, and uses."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return (int(fields[11]) + int(fields[12])) / TICKS, int(status["VmRSS"].split()[0]) / 1024


def measure_imports(folder: Path) -> dict[str, float]:
    """Import the app's modules in a new process."""
    start = time.perf_counter()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", IMPORT], cwd=folder, **pipes) as process:
        process.stdout.readline()
        seconds = time.perf_counter() - start
        cpu, memory = usage(process)
        process.stdin.close()
    return {"imports: s": seconds, "imports: CPU s": cpu, "imports: MiB": memory}


def measure_app(app: Path, scan: bytes) -> dict[str, float]:
    """Start the app, wait for its page, then upload a scan and wait for its answer and map."""
    address = f"http://127.0.0.1:{(port := free_port())}/"
    start = time.perf_counter()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen([sys.executable, app], cwd=app.parent, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            while not is_served(address):
                time.sleep(0.05)
            seconds = time.perf_counter() - start
            cpu, _ = usage(process)
            settle(process)
            answers = [ask(address, scan) for _ in range(2)]
            _, memory = usage(process)
        finally:
            process.terminate()
    return {
        "page: s": seconds,
        "page: CPU s": cpu,
        "app: MiB": memory,
        "first answer: s": answers[0],
        "next answer: s": answers[1],
    }


def is_served(address: str) -> bool:
    """Return whether the page comes; a bare socket is asked first, because it takes nothing from the app's cores."""
    with socket.socket() as probe:
        if probe.connect_ex((httpx.URL(address).host, httpx.URL(address).port)) != 0:
            return False
    return httpx.get(address, timeout=120).is_success


def settle(process: subprocess.Popen) -> None:
    """Wait until a process has nothing more to do: what it prepares in the background is done."""
    before = -1.0
    while (now := usage(process)[0]) > before + 0.1:
        before = now
        time.sleep(1)


def ask(address: str, scan: bytes, endpoint: str = "explain") -> float:
    """Upload a scan, ask for its answer, with Grad-CAM if not `predict`, and return after how many seconds it came."""
    with httpx.Client(base_url=f"{address}gradio_api/", timeout=120) as client:
        start = time.perf_counter()
        [path] = client.post("upload", files={"files": ("scan.png", scan)}).json()
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        call = client.post(f"call/v2/{endpoint}", json={"image": image}).json()
        answer = client.get(f"call/{endpoint}/{call['event_id']}").text
        seconds = time.perf_counter() - start
    event, _ = answer.strip().split("\n\n")[-1].split("\n")
    if event != "event: complete":
        raise SystemExit(answer)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", type=Path, help="default: a synthetic scan")
    parser.add_argument("--app", type=Path, default=ROOT / "app.py", help="another version's app.py, to compare")
    settings = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        make_scan("glioma", 0, side=512).save(file.name)
        scan = (settings.image or Path(file.name)).read_bytes()
    app = settings.app.resolve()
    rounds = []
    for _ in range(settings.rounds):
        rounds.append(measure_imports(app.parent) | measure_app(app, scan))
        print(rounds[-1], file=sys.stderr)
    figures = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
    weights = (checkpoint_folder(bundled_checkpoints()[0]) / "model.safetensors").stat().st_size / MIB
    for name, value in figures.items():
        print(f"{name:20} {value:8.2f}")
    print(f"{'weights: MiB':20} {weights:8.2f}")
    print(f"page / imports       {figures['page: s'] / figures['imports: s']:8.2f}  (target 1.2)")
    print(f"  by CPU seconds     {figures['page: CPU s'] / figures['imports: CPU s']:8.2f}")
    print(f"memory / (imports + weights) {figures['app: MiB'] / (figures['imports: MiB'] + weights):.2f}  (target 1.2)")
    print(f"load average: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
