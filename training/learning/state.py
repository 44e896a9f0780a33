"""The state of an unfinished run: saved after every epoch, atomically, and continued only with the same settings."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from training.data.sources import DataError
from training.data.splits import SplitIdentity
from training.learning.settings import OUTPUT_FIELDS, TrainConfig, settings_record

RECORD = "run.json"
# The weights of the best epoch so far: in the output folder, and those of a state within it.
BEST = "best.safetensors"
# What `state` is called while it is deleted.
DELETED = "state.deleted"


def validation_score(row: Mapping) -> float:
    """Return what epochs are chosen by: macro-F1 on validation, or its mean with the share right on other sources."""
    home = row["validation_macro_f1"]
    return (home + row["validation_away"]) / 2 if "validation_away" in row else home


def saved_history(folder: Path) -> list[dict]:
    """Return the rows of the finished epochs of a run that is under way, or was stopped, in its output folder."""
    states = sorted((folder / "state").glob("epoch-*"))
    try:
        return json.loads((states[-1] / RECORD).read_text(encoding="utf-8"))["history"]
    except (IndexError, OSError):  # no epoch yet, or the run has just replaced this state by the next one
        return []


class TrainingState:
    """The epochs of a run so far, and what must be the same when it is resumed.

    `history` holds one row of numbers per finished epoch. The folder `state` below the output folder holds the state
    after the last one: weights, optimizer, schedule and random numbers, as accelerate saves them, the best weights so
    far, and `run.json` with settings, number of processes, split and history.
    """

    def __init__(self, settings: TrainConfig, processes: int):
        self.folder = Path(settings.output_dir)
        self.history: list[dict] = []
        self._settings = settings
        self._saved: dict | None = None
        constant = {name: value for name, value in asdict(settings).items() if name not in OUTPUT_FIELDS}
        self._record: dict[str, Any] = {"settings": json.loads(json.dumps(constant)), "processes": processes}

    @classmethod
    def open(cls, settings: TrainConfig, accelerator: Accelerator) -> "TrainingState":
        """Start a run in `settings.output_dir`, or continue the one there if `settings.resume`.

        Raises:
            DataError: if the run there has other settings, or another number of processes.
        """
        state = cls(settings, accelerator.num_processes)
        state.folder.mkdir(parents=True, exist_ok=True)
        if settings.resume:
            state.find_saved()
        elif accelerator.is_main_process:
            (state.folder / "metrics.json").unlink(missing_ok=True)
            state.clear()
        return state

    def find_saved(self) -> None:
        """Read the record of the saved state, if there is one; raises `DataError` if it is of other settings."""
        if self.is_finished:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            _refuse_differences(_flags(config["brain_xai"]["training"]), _flags(settings_record(self._settings)))
        elif self._all_saved():
            saved = json.loads((self._latest() / RECORD).read_text(encoding="utf-8"))
            before, now = (
                _flags(record["settings"]) | {"the number of processes": record["processes"]}
                for record in (saved, self._record)
            )
            _refuse_differences(before, now)
            self._saved = saved

    @property
    def is_finished(self) -> bool:
        """Whether a run has already been completed in the folder."""
        return (self.folder / "metrics.json").is_file() and not (self.folder / "state").exists()

    @property
    def best(self) -> dict:
        """The row of the epoch to publish: the best by `validation_score`, or the last one if the settings say so."""
        if self._settings.keep == "last":
            return self.history[-1]
        return max(self.history, key=validation_score)

    def set_data(self, split: SplitIdentity, pool: str) -> None:
        """Record the split, and the fingerprint of boxes and other sources.

        Raises:
            DataError: if the run was started on other images or boxes.
        """
        self._record |= {"split": asdict(split), "pool": pool}
        if self._saved is not None:
            before, now = (
                {f"the split's {name}": value for name, value in record["split"].items()}
                | {"the fingerprint of boxes and other sources": record["pool"]}
                for record in (self._saved, self._record)
            )
            _refuse_differences(before, now)

    def restore(self, accelerator: Accelerator) -> None:
        """Load the saved state, if there is one, into everything that `accelerator` has prepared."""
        if self._saved is not None:
            accelerator.load_state(str(self._latest()))
            if accelerator.is_main_process and (self._latest() / BEST).is_file():
                # The run may have been killed after a later epoch had put its own there.
                _copy(self._latest() / BEST, self.folder / BEST)
            self.history = self._saved["history"]
            accelerator.print(f"Resuming after epoch {len(self.history)}.")

    def remaining_epochs(self) -> Iterator[int]:
        """Yield the indices of the epochs still to do; ends early after `patience` epochs without a better one."""
        while len(self.history) < len(self._settings.epoch_sizes):
            if self.history and len(self.history) - self.best["epoch"] >= self._settings.patience:
                return
            yield len(self.history)

    def save(self, accelerator: Accelerator) -> None:
        """Save the state after the last epoch in `history` and delete earlier ones."""
        states, partial = self.folder / "state", self.folder / "state" / "partial"
        accelerator.save_state(str(partial))
        if accelerator.is_main_process:
            content = json.dumps(self._record | {"history": self.history})
            (partial / RECORD).write_text(content, encoding="utf-8")
            if (self.folder / BEST).is_file():
                _copy(self.folder / BEST, partial / BEST)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            # Renaming is atomic: a run killed at any moment leaves a complete state.
            partial.rename(states / f"epoch-{len(self.history):04d}")
            for older in self._all_saved()[:-1]:
                shutil.rmtree(older)
        accelerator.wait_for_everyone()

    def clear(self) -> None:
        """Delete the files that only an unfinished run needs."""
        if (self.folder / "state").exists():
            shutil.rmtree(self.folder / DELETED, ignore_errors=True)
            # Renaming is atomic: a run killed while it deletes the files does not leave half a state.
            (self.folder / "state").rename(self.folder / DELETED)
        shutil.rmtree(self.folder / DELETED, ignore_errors=True)
        for name in (BEST, f"{BEST}.partial"):
            (self.folder / name).unlink(missing_ok=True)

    def _all_saved(self) -> list[Path]:
        return sorted((self.folder / "state").glob("epoch-*"))

    def _latest(self) -> Path:
        return self._all_saved()[-1]


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that the target is whole at any moment."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _flags(settings: Mapping) -> dict:
    return {f"--{name.replace('_', '-')}": value for name, value in settings.items()}


def _refuse_differences(before: Mapping, now: Mapping) -> None:
    """Raise `DataError` that names every entry which has changed."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        differences = "; ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in names)
        raise DataError(
            f"This run cannot be resumed with other settings: {differences}. "
            "Repeat the command it was started with, or leave out --resume to start again."
        )
