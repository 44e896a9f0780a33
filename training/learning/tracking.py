"""Tracking a run with one of accelerate's trackers: settings, numbers of every epoch, results and figures.

Everything stays on this disk, in the folder `tracking` beside the output folders, so that runs can be compared:

    tensorboard --logdir runs/tracking/tensorboard
    TRACKIO_DIR=runs/tracking/trackio trackio show
    mlflow ui --backend-store-uri sqlite:///runs/tracking/mlflow.db
    wandb sync runs/tracking/wandb/offline-run-*          # uploads; until then nothing leaves the machine

The trackers' own environment variables, where they are set, say otherwise: MLFLOW_TRACKING_URI, TRACKIO_DIR,
TRACKIO_SPACE_ID, WANDB_MODE and WANDB_DIR.
"""

import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from training.data.sources import DataError
from training.learning.settings import TrainConfig, settings_record

PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow sqlalchemy alembic"}
FILE = "tracking.json"
PROJECT = "brain_xai"


@dataclass(frozen=True)
class Track:
    """Where a run is tracked; config.json records it, so that the run can be found from its checkpoint.

    Attributes:
        tracker: The tracker.
        run: Its name, which begins with the name of its output folder.
        id: The tracker's own id of it.
    """

    tracker: str
    run: str
    id: str


def accelerator_of(settings: TrainConfig) -> Accelerator:
    """Return the accelerator of a run with its tracker; raises `DataError` if the tracker is not installed."""
    tracker = settings.report_to
    if tracker != "none" and any(find_spec(name) is None for name in PACKAGES[tracker].split()):
        raise DataError(f"--report-to {tracker} needs {tracker}. Install it with: pip install {PACKAGES[tracker]}")
    return Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        log_with=None if tracker == "none" else tracker,
        project_dir=None if tracker == "none" else _store(settings) / tracker,
    )


def start_tracking(settings: TrainConfig, accelerator: Accelerator) -> Track | None:
    """Begin a track, or go on with the one of a run that is resumed; None without --report-to.

    Returns:
        The track, in the main process only; the trackers do nothing in the others.
    """
    if settings.report_to == "none" or not accelerator.is_main_process:
        return None
    file = _output(settings) / FILE
    track = _saved(file, settings) if settings.resume else None
    is_new = track is None
    if is_new:
        name = f"{_output(settings).name}-{time.strftime('%Y%m%d-%H%M%S')}"
        track = Track(settings.report_to, name, uuid.uuid4().hex[:8])
    store = _store(settings)
    _stay_local(store)
    project = track.run if track.tracker == "tensorboard" else PROJECT
    accelerator.init_trackers(project, init_kwargs={track.tracker: _arguments(track, is_new, store)})
    tracker = accelerator.get_tracker(track.tracker)
    if is_new:
        if track.tracker == "mlflow":  # gives ids of its own
            track = Track(**asdict(track) | {"id": tracker.tracker.info.run_id})
        record = {name: _plain(value) for name, value in settings_record(settings).items()}
        tracker.store_init_configuration(record | {"output": _output(settings).name})
        file.write_text(json.dumps(asdict(track)) + "\n", encoding="utf-8")
    accelerator.print(f"Tracked by {track.tracker} as {track.run} in {store}.")
    return track


def log_epoch(accelerator: Accelerator, row: Mapping) -> None:
    """Log the numbers of an epoch as `train/loss`, `validation/accuracy` and so on."""
    flat = {name: value for name, value in row.items() if isinstance(value, int | float)}
    flat |= {
        f"validation_kind_{kind.replace('|', ' or ')}": share for kind, share in row.get("validation_kinds", {}).items()
    }
    accelerator.log({_grouped(name): value for name, value in flat.items() if name != "epoch"}, step=row["epoch"])


def log_results(accelerator: Accelerator, epoch: int, folder: Path, revision: str) -> None:
    """Log the test results of a finished checkpoint folder, its figures and maps, and the revision of its weights.

    Args:
        accelerator: The accelerator of the run.
        epoch: The last epoch.
        folder: The checkpoint folder with metrics.json and figures.
        revision: The hash of the weights, by which the checkpoint can be found from the track.
    """
    if not accelerator.trackers:
        return
    test = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    values = {name: entry["value"] for name, entry in test.items() if isinstance(entry, dict) and "value" in entry}
    accelerator.log({f"test/{name}": value for name, value in values.items() if value is not None}, step=epoch)
    tracker = accelerator.trackers[0]
    checkpoint = f"{folder.resolve().name}@{revision}"
    if tracker.name == "mlflow":  # takes numbers only
        import mlflow

        mlflow.set_tag("checkpoint", checkpoint)
    else:
        tracker.log({"checkpoint": checkpoint}, step=epoch)
    for file in sorted((folder / "figures").glob("*.png")):
        _log_figure(tracker, file, epoch)


def _log_figure(tracker, file: Path, epoch: int) -> None:
    name = f"figures/{file.stem}"
    if tracker.name == "mlflow":
        tracker.log_artifact(str(file), "figures")
    elif tracker.name == "trackio":
        import trackio

        tracker.log({name: trackio.Image(str(file))}, step=epoch)
    else:
        pixels = np.asarray(Image.open(file).convert("RGB"))[None]
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: pixels}, step=epoch, **layout)


def _saved(file: Path, settings: TrainConfig) -> Track | None:
    """Return the track of the run in an output folder, None if it has none by this tracker."""
    saved = Track(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
    return saved if saved and saved.tracker == settings.report_to else None


def _output(settings: TrainConfig) -> Path:
    return Path(settings.output_dir).resolve()


def _store(settings: TrainConfig) -> Path:
    return _output(settings).parent / "tracking"


def _stay_local(store: Path) -> None:
    """Tell the trackers to write below `store` and to use no network, unless their environment says otherwise."""
    store.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TRACKIO_DIR", str(store / "trackio"))
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_DIR", str(store))


def _arguments(track: Track, is_new: bool, store: Path) -> dict:
    """Return how a tracker names a run, and how it goes on with one."""
    if track.tracker == "trackio":
        return {"name": track.run, "resume": "never" if is_new else "must", "auto_log_cpu": False}
    if track.tracker == "wandb":
        return {"name": track.run, "id": track.id, "resume": "allow"}
    if track.tracker == "mlflow":
        is_local = os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:")
        named = {"run_name": track.run} if is_new else {"run_id": track.id}
        return named | {"logging_dir": (store / "mlflow").as_uri() if is_local else None}
    return {}


def _plain(value):
    """Return a setting as the trackers take it: they know no lists."""
    return value if isinstance(value, bool | int | float | str) or value is None else " ".join(map(str, value))


def _grouped(name: str) -> str:
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if group in ("train", "validation") else f"run/{name}"
