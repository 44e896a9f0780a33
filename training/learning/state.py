"""The state of an unfinished run: written after every epoch, whole or not at all."""

import shutil
from pathlib import Path

from accelerate import Accelerator


class Progress:
    """How far a run has come: what resuming needs beside weights, optimiser and schedule."""

    def __init__(self) -> None:
        self.epoch, self.history = 0, []

    @property
    def best(self) -> dict:
        return max(self.history, key=lambda row: row["validation_macro_f1"])

    def has_stalled(self, patience: int) -> bool:
        return bool(self.history) and self.epoch - self.best["epoch"] >= patience

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def save_state(accelerator: Accelerator, output_dir: Path, epoch: int) -> None:
    """Keep the state after `epoch` epochs in `output_dir/state`, in place of earlier ones."""
    states, partial = output_dir / "state", output_dir / "state" / "partial"
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        # A rename is all or nothing, so a run killed at any moment finds a whole state.
        partial.rename(states / f"epoch-{epoch:04d}")
        for older in _finished(states)[:-1]:
            shutil.rmtree(older)
    accelerator.wait_for_everyone()


def load_state(accelerator: Accelerator, output_dir: Path) -> bool:
    """Go back to the last kept state; returns whether there was one."""
    finished = _finished(output_dir / "state")
    if finished:
        accelerator.load_state(str(finished[-1]))
    return bool(finished)


def is_finished(output_dir: Path) -> bool:
    """Return whether a run has come to its end in `output_dir`."""
    return (output_dir / "metrics.json").is_file() and not (output_dir / "state").exists()


def start_afresh(output_dir: Path) -> None:
    """Forget what an earlier run has left in `output_dir`."""
    (output_dir / "metrics.json").unlink(missing_ok=True)
    clear_state(output_dir)


def clear_state(output_dir: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(output_dir / "state", ignore_errors=True)
    (output_dir / "best.safetensors").unlink(missing_ok=True)


def _finished(states: Path) -> list[Path]:
    return sorted(states.glob("epoch-*"))
