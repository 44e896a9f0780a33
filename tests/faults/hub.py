"""The Hub is lost at each request of a push and of a pull, in every way in which it can be."""

import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from itertools import count
from pathlib import Path

import pytest
from safetensors import SafetensorError

from brain_xai.checkpoint import hub as client
from brain_xai.checkpoint.catalog import load_snapshot, update_from_hub
from brain_xai.checkpoint.schema import CheckpointError
from tests.faults.table import Row, fill, small_disk
from tests.helpers.at_hub import files_of, publish, use
from tests.helpers.local_hub.__main__ import Hub, serve
from tests.helpers.scans import LABELS
from tests.helpers.served import save_tiny_checkpoint
from tests.training.test_card import make_metrics
from training.publish import PushError, push
from training.publishing import upload

REPO = "org/tiny"
# Once, which is survived, and for good, which is reported; in each way.
WAYS: tuple[int | str, ...] = ("drop", "truncate", "lost", 503)
FOR_GOOD = 10**6


def lost_while_pushing(folder: Path) -> Row:
    """Lose the Hub at each request of a push, for a moment and for good; then push again."""
    run = save_run(folder)
    tries, survived, lost = 0, 0, []
    for what in WAYS:
        for times in (1, FOR_GOOD):
            for after in count():
                with local_hub(folder / f"{what}-{times}-{after}") as hub:
                    hub.fault("", what, times, after)
                    try:
                        with redirect_stderr(io.StringIO()):
                            push(run, REPO)
                        survived += 1
                    except PushError as error:
                        if times == 1 and what != "truncate":
                            lost.append(f"{what} at request {after + 1}: {error}")
                    was_hit = len(hub.requests) > after
                    hub.clear_faults()
                    lost += [f"{what} at request {after + 1}: {reason}" for reason in pushed_again(hub, run)]
                if not was_hit:
                    break
                tries += 1
    return Row("Hub lost at each request of a push", tries, f"{survived} survived, others reported", summary(lost))


def pushed_again(hub: Hub, run: Path) -> Iterator[str]:
    """Push once more, and yield what is wrong with the repository then."""
    try:
        published = push(run, REPO)
    except PushError as error:
        yield str(error)
        return
    repository = hub.store.find("models", REPO)
    if published.tag not in repository.refs["tags"]:
        yield "no tag"
    if repository.refs["branches"] != {"main": published.revision}:
        yield f"branches {repository.refs['branches']}"


def lost_while_pulling(folder: Path) -> Row:
    """Lose the Hub at each request of a pull, for a moment and for good; then pull again."""
    run = save_run(folder)
    tries, survived, lost = 0, 0, []
    for what in WAYS:
        for times in (1, FOR_GOOD):
            for after in count():
                with local_hub(folder / f"{what}-{times}-{after}") as hub:
                    sha = publish(hub, REPO, files_of(run))
                    hub.fault("", what, times, after)
                    try:
                        update_from_hub(REPO)
                        survived += 1
                    except CheckpointError as error:
                        if not str(error).endswith("."):
                            lost.append(str(error))
                    was_hit = len(hub.requests) > after
                    hub.clear_faults()
                    if update_from_hub(REPO).revision != sha:
                        lost.append(f"{what} at request {after + 1}: another revision")
                if not was_hit:
                    break
                tries += 1
    return Row("Hub lost at each request of a pull", tries, f"{survived} survived, others refused", summary(lost))


def disk_full_while_pulling(folder: Path) -> Row:
    """Let the disk of the cache be full while a checkpoint is downloaded; then free it and pull again."""
    run = save_run(folder)
    weights = (run / "model.safetensors").stat().st_size
    said, lost = [], []
    for left in (0, 8192, weights // 2, weights):
        with small_disk(16) as disk, local_hub(folder / f"hub-{left}", cache=disk) as hub:
            sha = publish(hub, REPO, files_of(run))
            filler = fill(disk, left)
            said.append(refusal_of(lambda: update_from_hub(REPO)))
            filler.unlink()
            if update_from_hub(REPO).revision != sha:
                lost.append("another revision")
    lost += [f"opaque: {reason}" for reason in said if reason and not reason.endswith(".")]
    return Row("disk full while a checkpoint is cached", len(said), f"refused: {sorted(set(said))}", summary(lost))


def half_written_cache(folder: Path) -> Row:
    """Cut off each file of a cached checkpoint anywhere; without the Hub it is refused, with it fetched again."""
    run = save_run(folder)
    tries, lost = 0, []
    for name in ("model.safetensors", "config.json"):
        size = (run / name).stat().st_size
        for length in (0, 1, size // 2, size - 2):  # the last byte is a line end
            with local_hub(folder / f"hub-{name}-{length}") as hub:
                publish(hub, REPO, files_of(run))
                snapshot = update_from_hub(REPO)
                file = (snapshot.folder / name).resolve()
                file.write_bytes(file.read_bytes()[:length])
                client.forget(REPO, snapshot)
                reason = refusal_of(lambda snapshot=snapshot: load_snapshot(f"{REPO}@new", snapshot))
                tries += 1
                if not reason.endswith("."):
                    lost.append(f"{name} of {length} bytes: {reason or 'was loaded'}")
                file.unlink()
                update_from_hub(REPO)
    return Row("half-written file in the cache", tries, "refused with a sentence, then fetched again", summary(lost))


def refusal_of(step: Callable[[], object]) -> str:
    """Return the sentence with which a step is refused, the name of any other error, or "" for success."""
    try:
        step()
    except CheckpointError as error:
        return str(error)
    except (OSError, RuntimeError, SafetensorError) as error:
        return type(error).__name__
    return ""


def save_run(folder: Path) -> Path:
    """Write a finished run that can be published."""
    run = folder / "run"
    if not run.exists():
        save_tiny_checkpoint(run, LABELS)
        (run / "metrics.json").write_text(json.dumps(make_metrics() | {"seed": 0}))
    return run


@contextmanager
def local_hub(folder: Path, cache: Path | None = None) -> Iterator[Hub]:
    """Serve a Hub, and let this process use it without long waits between its tries."""
    with serve(folder / "hub") as hub, pytest.MonkeyPatch.context() as patch:
        use(hub.endpoint, cache or folder / "cache", patch)
        patch.setattr(upload, "RETRY_DELAYS", (0.01,) * 4)
        patch.setattr(client, "RETRY_DELAYS", (0.01, 0.01))
        # The Hub's client waits for half a minute before it gives up.
        patch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02)))
        yield hub


def summary(lost: list[str]) -> str:
    """Return what was lost in all tries."""
    return "; ".join(dict.fromkeys(lost)) or "nothing"
