"""Which checkpoints there are, under which ids, and one cache of the loaded ones."""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from brain_xai.checkpoint import hub
from brain_xai.checkpoint.folder import read_checkpoint, weights_hash
from brain_xai.checkpoint.schema import WEIGHTS_NAME, CheckpointError, read_json
from brain_xai.classifier import Classifier, PredictionWarning

BUNDLED = Path(__file__).parent.parent / "bundled"


def bundled_checkpoints() -> list[str]:
    """Return the ids of the checkpoints that come with the package, best macro-F1 on validation first."""
    folders = [folder for folder in sorted(BUNDLED.iterdir()) if (folder / WEIGHTS_NAME).is_file()]
    folders.sort(key=lambda folder: -read_json(folder / "metrics.json")["validation"]["macro_f1"]["value"])
    return [f"bundled/{folder.name}" for folder in folders]


def allowed_checkpoints() -> list[str]:
    """Return the ids a visitor may choose from, the default first: `BRAIN_XAI_CHECKPOINTS`, else the bundled ones."""
    named = [name.strip() for name in os.environ.get("BRAIN_XAI_CHECKPOINTS", "").split(",")]
    return [name for name in named if name] or bundled_checkpoints()


def checkpoint_folder(checkpoint: str) -> Path | None:
    """Return where a checkpoint lies on this disk, without asking the Hub; None where it was never fetched."""
    if checkpoint.startswith("bundled/"):
        return BUNDLED / Path(checkpoint).name
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    snapshot = hub.cached(checkpoint)
    return snapshot.folder if snapshot else None


def is_on_hub(checkpoint: str) -> bool:
    """Return whether an id means a repository on the Hub: neither a bundled checkpoint nor a folder."""
    return not checkpoint.startswith("bundled/") and not Path(checkpoint).is_dir()


def load_checkpoint(checkpoint: str | os.PathLike = "default") -> Classifier:
    """Load a `Classifier`.

    `checkpoint` is "default" (the first allowed one), "bundled/<name>", a folder, or "org/repo@revision" on the Hub
    (the part from @ on may be left out). A local folder's revision is the hash of its weights. The same weights are
    loaded once and shared. Where the Hub cannot be reached, what was fetched before answers, with a notice.
    Raises `CheckpointError`.
    """
    name = os.fspath(checkpoint)
    if name == "default":
        name = next(iter(allowed_checkpoints()), "")
        if not name:
            raise CheckpointError("No checkpoint is bundled. Name one: a folder, or org/repo on the Hub.")
    if is_on_hub(name):
        return load_snapshot(name, _pull_or_cached(name))
    folder = checkpoint_folder(name)
    if name.startswith("bundled/") and not (folder / WEIGHTS_NAME).is_file():
        raise CheckpointError(f"There is no {name}. Bundled are: {', '.join(bundled_checkpoints())}.")
    return _load(name, folder, weights_hash(folder / WEIGHTS_NAME), (), _written(folder))


def load_snapshot(name: str, snapshot: hub.Snapshot) -> Classifier:
    """Load the `Classifier` in a snapshot of the Hub's repository `name`; raises `CheckpointError`."""
    return _load(name, snapshot.folder, snapshot.revision, snapshot.notices, ())  # a commit never changes


def _pull_or_cached(name: str) -> hub.Snapshot:
    try:
        return hub.pull(name)
    except hub.HubUnreachable:
        earlier = hub.cached(name)
        if earlier is None:
            raise
        return replace(earlier, notices=(hub.unreachable_notice(name, earlier.revision),))


# Commit, notices and times are part of the key, so an answer never comes with those of another.
@lru_cache(maxsize=4)
def _load(
    name: str, folder: Path, revision: str, notices: tuple[PredictionWarning, ...], written: tuple[int, ...]
) -> Classifier:
    try:
        return read_checkpoint(name, folder, revision, notices)
    except CheckpointError as error:
        raise CheckpointError(f"{name} cannot be loaded. {error}") from error


def _written(folder: Path) -> tuple[int, ...]:
    """Return when each JSON file of a folder was written: numbers may change while the weights do not."""
    return tuple(file.stat().st_mtime_ns for file in sorted(folder.glob("*.json")))
