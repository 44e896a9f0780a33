"""The ids of checkpoints, and one cache of the classifiers that were loaded from them."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from brain_xai.checkpoint import hub
from brain_xai.checkpoint.folder import read_checkpoint
from brain_xai.checkpoint.schema import WEIGHTS_NAME, CheckpointError, read_json
from brain_xai.classifier import Classifier, PredictionWarning

BUNDLED = Path(__file__).parent.parent / "bundled"
# A session that compares a few checkpoints keeps them loaded, however few visitors may choose from.
MIN_CACHED = 4


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
    """Return the folder of a checkpoint on this disk without asking the Hub; None if it was never downloaded."""
    if checkpoint.startswith("bundled/"):
        return BUNDLED / Path(checkpoint).name
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    snapshot = hub.cached(checkpoint)
    return snapshot.folder if snapshot else None


def examples_folder(checkpoint: str) -> Path | None:
    """Return the folder of a checkpoint's example images; the bundled checkpoints share one."""
    if checkpoint.startswith("bundled/"):
        return BUNDLED / "examples"
    folder = checkpoint_folder(checkpoint)
    return folder / "examples" if folder else None


def is_on_hub(checkpoint: str) -> bool:
    """Return whether an id names a repository on the Hub: neither a bundled checkpoint nor a local folder."""
    return not checkpoint.startswith("bundled/") and not Path(checkpoint).is_dir()


def load_checkpoint(
    checkpoint: str | os.PathLike = "default", device: str | int | torch.device | None = None
) -> Classifier:
    """Load a checkpoint, or return it if it is still loaded.

    Args:
        checkpoint: "default" (the first allowed checkpoint), "bundled/<name>", a folder, or "org/repo@revision" on
            the Hub (@revision may be omitted). The revision of a folder is a hash of its weights.
        device: Where the model runs: whatever `torch.device` accepts, such as "cuda" or "mps"; None is the CPU.

    Returns:
        The classifier. Calls for the same files and device share one model. If the Hub cannot be reached, the
        revision that loaded last is used, and `Classifier.warnings` says so.

    Raises:
        CheckpointError: The checkpoint or the device cannot be used; the message says why and what to do.
    """
    name, place = os.fspath(checkpoint), _check_device(device)
    if name == "default":
        name = next(iter(allowed_checkpoints()), "")
        if not name:
            raise CheckpointError("No checkpoint is bundled. Name one: a folder, or org/repo on the Hub.")
    if is_on_hub(name):
        return _load_from_hub(name, place)
    folder = checkpoint_folder(name)
    if name.startswith("bundled/") and not (folder / WEIGHTS_NAME).is_file():
        raise CheckpointError(f"There is no {name}. Bundled are: {', '.join(bundled_checkpoints())}.")
    return _CACHE.get((name, place), _file_stamps(folder), partial(_read, name, folder, None, place))


def load_snapshot(name: str, snapshot: hub.Snapshot, device: torch.device | str = "cpu") -> Classifier:
    """Load a downloaded revision of the Hub's checkpoint `name`; raises `CheckpointError`."""
    place = torch.device(device)
    return _CACHE.get((name, place), snapshot, partial(_read, name, snapshot.folder, snapshot.revision, place))


def update_from_hub(name: str, device: torch.device | str = "cpu") -> hub.Snapshot:
    """Download the newest revision of a checkpoint and load it; only one that loads is remembered.

    Raises `CheckpointError`, as `hub.pull` does.
    """
    snapshot = hub.pull(name)
    try:
        load_snapshot(name, snapshot, device)
    except CheckpointError:
        hub.forget(name, snapshot)
        raise
    hub.remember(name, snapshot)
    return snapshot


@dataclass(eq=False)
class _Entry:
    loaded: tuple[Hashable, Classifier] | None = None  # the version, and what was loaded from it
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while loading


class ClassifierCache:
    """The loaded classifiers; safe to use from several threads.

    There is one entry per checkpoint and device. Loading another version of its files replaces it, so an outdated
    model is freed. At least as many entries are kept as there are checkpoints to choose from, the fallback included;
    beyond that the least recently used ones are dropped.
    """

    def __init__(self):
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, version: Hashable, load: Callable[[], Classifier]) -> Classifier:
        """Return the classifier of `version`, calling `load` unless it is loaded.

        Threads that ask for the same version at once wait for one call. If `load` raises, the entry stays as it was.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            loaded = entry.loaded
        if loaded is not None and loaded[0] == version:
            return loaded[1]
        with entry.lock:
            if entry.loaded is None or entry.loaded[0] != version:
                self._load(key, entry, version, load)
            return entry.loaded[1]

    def _load(self, key: Hashable, entry: _Entry, version: Hashable, load: Callable[[], Classifier]) -> None:
        try:
            entry.loaded = version, load()
        finally:
            size = max(MIN_CACHED, len({*allowed_checkpoints(), *bundled_checkpoints()[:1]}))
            with self._lock:
                if entry.loaded is None and self._entries.get(key) is entry:
                    del self._entries[key]
                while len(self._entries) > size:
                    self._entries.popitem(last=False)


_CACHE = ClassifierCache()


def _load_from_hub(name: str, device: torch.device) -> Classifier:
    try:
        return load_snapshot(name, update_from_hub(name, device), device)
    except hub.HubUnreachable:
        snapshot = hub.cached(name)
        if snapshot is None:
            raise
    classifier = load_snapshot(name, snapshot, device)
    if hub.is_pinned(name):  # a commit never changes
        return classifier
    return with_warnings(classifier, hub.unreachable_warning(name, snapshot.revision))


def with_warnings(classifier: Classifier, *warnings: PredictionWarning) -> Classifier:
    """Return the classifier with further warnings; it shares the model with the original."""
    return replace(classifier, warnings=(*classifier.warnings, *warnings)) if warnings else classifier


def _read(name: str, folder: Path, revision: str | None, device: torch.device) -> Classifier:
    try:
        return read_checkpoint(name, folder, revision, device)
    except CheckpointError as error:
        raise CheckpointError(f"{name} cannot be loaded. {error}") from error


def _file_stamps(folder: Path) -> tuple:
    """Return what changes whenever a file of a checkpoint folder is written again."""
    files = [file for file in sorted(folder.resolve().glob("*.*")) if file.suffix in (".json", ".safetensors")]
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return tuple((file, stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in stats)


def _check_device(device: str | int | torch.device | None) -> torch.device:
    """Return the device with its index; raises `CheckpointError` if this machine does not have it."""
    try:
        return torch.empty(0, device="cpu" if device is None else device).device
    except Exception as error:  # each kind of device fails with exceptions of its own
        raise CheckpointError(
            f"The device {device!r} cannot be used on this machine; None means the CPU. PyTorch says: "
            f"{str(error).splitlines()[0][:200]}"
        ) from error
