"""Trainings that are killed, or find the disk full, and go on."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file

from tests.faults.table import Row, fill, small_disk
from tests.helpers.scans import write_scans
from tests.helpers.training_runs import ENVIRONMENT, ROOT, command, launched, on_two_processes, run

Launcher = Callable[[list[str]], list[str]]
# Each is true from one moment of a run on; the run is killed as soon as it is.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    **{
        f"{count} files of the second state": partial(
            lambda output, count: has(output, "state/epoch-0001") and len(files(output / "state/partial")) >= count,
            count=count,
        )
        for count in (1, 2, 4, 6)
    },
    "best weights of the third epoch, not yet its state": lambda output: (
        has(output, "state/epoch-0002") and newer(output / "best.safetensors", output / "state/epoch-0002")
    ),
    "two states": lambda output: len(files(output / "state", "epoch-*")) > 1,
    "weights without metrics": lambda output: has(output, "model.safetensors"),
    "metrics while the state is there": lambda output: has(output, "metrics.json"),
    "no state, before the end": lambda output: has(output, "metrics.json") and not has(output, "state"),
}


def killed_at_random(folder: Path, tries: int, seed: int, launcher: Launcher = launched) -> Row:
    """Kill a run at random moments, resume each, and compare its end to that of an undisturbed run."""
    whole, seconds = undisturbed(folder, launcher)
    random = Random(seed)

    def moment(output: Path, started: float = 0.0) -> bool:
        return time.monotonic() >= deadline

    where, lost = [], []
    for number in range(tries):
        output = folder / f"random-{number}"
        deadline = time.monotonic() + random.uniform(0.2, 1.0) * seconds
        where.append(killed(folder, output, moment, launcher))
        lost += resumed(folder, output, whole, launcher)
    times = {name: where.count(name) for name in dict.fromkeys(where)}
    happened = "killed " + ", ".join(f"{count} x {name}" for name, count in times.items())
    return Row(f"kill -9 at random moments, {name_of(launcher)}", tries, happened, summary(lost))


def killed_at_moments(folder: Path, launcher: Launcher = launched) -> Row:
    """Kill a run between the files of a save, and at other moments that matter."""
    whole, _ = undisturbed(folder, launcher)
    missed, lost = [], []
    for number, (name, moment) in enumerate(MOMENTS.items()):
        output = folder / f"moment-{number}"
        if killed(folder, output, moment, launcher) == "after its end":
            missed.append(name)
        lost += [f"{name}: {reason}" for reason in resumed(folder, output, whole, launcher)]
    happened = "killed at " + "; ".join(name for name in MOMENTS if name not in missed)
    return Row(f"kill -9 between the files of a save, {name_of(launcher)}", len(MOMENTS), happened, summary(lost))


def disk_full_while_saving(folder: Path) -> Row:
    """Let the disk be full at some epochs, then free it and resume."""
    whole, _ = undisturbed(folder, launched)
    lost, said = [], []
    with small_disk(64) as disk:
        for number, left in enumerate((0, 20_000, 60_000, 150_000)):
            output = disk / f"full-{number}"
            process = start(folder, output, launched)
            wait_for(process, lambda output: has(output, "state/epoch-0001"), output)
            filler = fill(disk, left)
            _, error = process.communicate(timeout=280)
            said.append((process.returncode, error.decode().strip().splitlines()[-1:]))
            filler.unlink()
            lost += resumed(folder, output, whole, launched)
            shutil.rmtree(output)
    ended = sum(code != 0 for code, _ in said)
    return Row("disk full while saving a state", len(said), f"{ended} ended with: {said[0][1]}", summary(lost))


def undisturbed(folder: Path, launcher: Launcher) -> tuple[Path, float]:
    """Return the folder of a whole run, and how many seconds it took."""
    data, output = folder / "data", folder / f"whole-{name_of(launcher).replace(' ', '-')}"
    if not data.exists():
        write_scans(data, train=20, test=5)
    started = time.monotonic()
    if not (output / "metrics.json").exists():
        done = run(launcher(command(data, output)))
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-3000:])
        (output / "seconds").write_text(str(time.monotonic() - started))
    return output, float((output / "seconds").read_text())


def start(folder: Path, output: Path, launcher: Launcher) -> subprocess.Popen:
    """Start a run in a process group of its own."""
    return subprocess.Popen(
        launcher(command(folder / "data", output)),
        cwd=ROOT,
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for(process: subprocess.Popen, moment: Callable[[Path], bool], output: Path) -> None:
    """Wait for a moment of a run, or for its end."""
    while process.poll() is None and not moment(output):
        time.sleep(0.0005)


def killed(folder: Path, output: Path, moment: Callable[[Path], bool], launcher: Launcher) -> str:
    """Start a run, kill all its processes at a moment, and return where it was."""
    process = start(folder, output, launcher)
    wait_for(process, moment, output)
    if process.poll() is not None:
        return "after its end"
    for pid in family(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    return place_of(output)


def place_of(output: Path) -> str:
    """Return how far a run has come, by what it has written."""
    states = files(output / "state", "epoch-*")
    if has(output, "metrics.json"):
        return "at the end"
    if has(output, "model.safetensors"):
        return "while finishing"
    saving = " while saving" if has(output, "state/partial") else ""
    done = int(states[-1].name[-4:]) if states else 0
    return f"in epoch {done + 1}{saving}" if states or saving else "before the first save"


def family(pid: int) -> list[int]:
    """Return a process and all that it has started, and those have; launchers give them sessions of their own."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:  # grows while it is read
        found += children.get(one, [])
    return found


def resumed(folder: Path, output: Path, whole: Path, launcher: Launcher) -> Iterator[str]:
    """Resume a run, and yield what is not as in an undisturbed one."""
    done = run(launcher(command(folder / "data", output, "--resume")))
    if done.returncode != 0:
        yield f"not resumed: {done.stderr.strip().splitlines()[-1:]}"
        return
    first, second = (load_file(one / "model.safetensors") for one in (whole, output))
    if first.keys() != second.keys() or not all(torch.equal(first[name], second[name]) for name in first):
        yield "other weights"
    expected, measured = (json.loads((one / "metrics.json").read_text()) for one in (whole, output))
    if any(expected[split] != measured[split] for split in ("validation", "test")):
        yield "other metrics"
    left = {path.name for path in output.iterdir()} - {path.name for path in whole.iterdir()}
    if left:
        yield f"left behind: {sorted(left)}"


def has(output: Path, name: str) -> bool:
    """Return whether a run has written a file or folder."""
    return (output / name).exists()


def files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what is in a folder that may change or be missing."""
    return sorted(folder.glob(pattern)) if folder.exists() else []


def newer(one: Path, other: Path) -> bool:
    """Return whether a file was written after another."""
    try:
        return one.stat().st_mtime > other.stat().st_mtime
    except OSError:
        return False


def name_of(launcher: Launcher) -> str:
    """Return how many processes a launcher starts."""
    return {launched: "one process", on_two_processes: "two processes"}[launcher]


def summary(lost: list[str]) -> str:
    """Return what was lost in all tries."""
    return "; ".join(dict.fromkeys(lost)) or "nothing"
