"""Faults of the machine under a running app: signals, memory, disk, damaged checkpoints."""

import json
import shutil
import signal
import time
from pathlib import Path
from random import Random

from tests.faults.table import Row, fill, small_disk
from tests.fuzz.bombs import black_png
from tests.helpers.caller import Caller, Refused, Reply
from tests.helpers.running_app import ROOT, RunningApp, running_app
from tests.helpers.sentences import is_ours
from tests.helpers.visits import scan_file

# Docker and Kubernetes kill an app that has not ended after so long.
GRACE_SECONDS = 10
BUNDLED = ROOT / "brain_xai" / "bundled" / "resnet18"


def sigterm_while_maps_are_computed() -> Row:
    """Stop the app while it computes maps of a comparison and a batch."""
    took, kept = [], []
    for endpoint, values in (("compare", 1), ("batch", 200)):
        with running_app() as app, Caller(app.address) as caller:
            file = caller.upload(scan_file(0), "scan.png")
            caller.start(endpoint, file if values == 1 else [file] * values)
            time.sleep(1.0)
            took.append(app.stop(signal.SIGTERM))
            kept += app.files()
    worst = max((seconds if seconds is not None else 999) for seconds in took)
    happened = f"ended after {worst:.1f} s at most" if worst < 999 else "had to be killed"
    lost = ["files of visitors stayed"] if kept else []
    return Row("SIGTERM while maps are computed", len(took), happened, "; ".join(lost) or "nothing")


def out_of_memory_of_one_request(megabytes: int = 700) -> Row:
    """Give the app little memory beyond what it needs, and send an image that needs more."""
    with running_app() as app, Caller(app.address) as caller:
        small = caller.upload(scan_file(0), "scan.png")
        before = predicted(caller, small)
        limit_memory(app, megabytes)
        said = []
        for content in (black_png(7000, 16, 6, 4), black_png(7000)):
            large = caller.upload(content, "scan.png")
            said += [caller.call(endpoint, large) for endpoint in ("predict", "explain")]
        after = predicted(caller, small) if app.is_running else "crashed"
        opaque = [reply.error for reply in said if reply.data is None and not is_ours(reply.error or "")]
    sentences = dict.fromkeys(reply.error for reply in said if reply.error)
    lost = [f"opaque: {opaque}"] if opaque else []
    lost += [] if before == after else [f"the next answer: {after}"]
    return Row("out of memory of one request", len(said), f"refused: {list(sentences)}", "; ".join(lost) or "nothing")


def disk_full_while_uploading() -> Row:
    """Let the disk be full when a file is uploaded, when an answer is saved, and free again."""
    with small_disk(8) as disk, running_app(temporary=disk) as app, Caller(app.address) as caller:
        small = caller.upload(scan_file(0), "scan.png")
        before = predicted(caller, small)
        said = []
        for left in (0, 4096, 100_000):
            filler = fill(disk, left)
            for content in (scan_file(1), bytes(5 * 2**20)):
                said.append(uploaded_and_explained(caller, content))
            said.append(caller.call("explain", small))
            filler.unlink()
        caller.upload(scan_file(2), "scan.png")
        after = predicted(caller, caller.upload(scan_file(0), "scan.png")) if app.is_running else "crashed"
        opaque = {reply.error for reply in said if reply.data is None and not is_ours(reply.error or "")}
    refused = dict.fromkeys(reply.error for reply in said if reply.error)
    lost = [f"opaque: {sorted(opaque)}"] if opaque else []
    lost += [] if before == after else [f"the next answer: {after}"]
    happened = f"{sum(reply.data is not None for reply in said)} answered, others: {list(refused)}"
    return Row("disk full while uploading and answering", len(said), happened, "; ".join(lost) or "nothing")


def damaged_checkpoint(folder: Path, tries: int, seed: int) -> Row:
    """Serve checkpoints that were cut off or damaged anywhere beside a sound one."""
    from brain_xai.checkpoint.catalog import load_checkpoint
    from brain_xai.checkpoint.schema import CheckpointError

    random, said, lost = Random(seed), set(), []
    for number in range(tries):
        copy = folder / f"checkpoint-{number}"
        shutil.copytree(BUNDLED, copy, ignore=shutil.ignore_patterns("figures"))
        name = random.choice(("model.safetensors", "config.json", "metrics.json"))
        content = (copy / name).read_bytes()
        cut = random.randrange(len(content))
        (copy / name).write_bytes(content[:cut])
        try:
            load_checkpoint(copy)
            lost.append(f"{name} cut at {cut} was loaded")
        except CheckpointError as error:
            said.add(name)
            if not str(error).endswith("."):
                lost.append(f"{name}: {error}")
        except Exception as error:
            lost.append(f"{name} cut at {cut}: {type(error).__name__}")
        shutil.rmtree(copy)
    return Row("half-written checkpoint", tries, "each refused with a sentence", "; ".join(lost) or "nothing")


def predicted(caller: Caller, file: dict) -> str:
    """Return the label and the probabilities of an image as text, or the error."""
    reply = caller.call("predict", file)
    return reply.error or "no sentence" if reply.data is None else json.dumps(reply.data[0]["probabilities"])


def uploaded_and_explained(caller: Caller, content: bytes) -> Reply:
    """Upload a file and explain it."""
    try:
        return caller.call("explain", caller.upload(content, "scan.png"))
    except Refused as refusal:
        return Reply(None, str(refusal))


def limit_memory(app: RunningApp, megabytes: int) -> None:
    """Let a running app take only so much more address space than it has now (Linux)."""
    import resource

    pages = int(Path("/proc", str(app.process.pid), "statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.prlimit(app.process.pid, resource.RLIMIT_AS, (limit, limit))
