"""Search for good settings of a training: short runs, compared on validation.

python -m training.search --space space.json --trials 20 --output-dir runs/search --data-dir DIR --sizes 128:8 …

All further flags go to training/train.py and stay the same in every trial. The test split is never touched.
space.json names what varies, by the flags of training/train.py:

    {"model": ["resnet18", "efficientnet_b0"], "learning_rate": {"low": 1e-4, "high": 3e-3, "log": true}}

Trials are kept in an Optuna study. The same command goes on where it was stopped, beginning with the settings of the
trial that was under way, and several machines can share one study (--storage). A trial that is worse than the median of
the others at the same epoch is stopped early.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from training.data.sources import DataError
from training.learning.state import saved_history, validation_score

ROOT = Path(__file__).resolve().parent.parent
# How often the history of a running trial is read.
POLL_SECONDS = 0.5
# With fewer completed trials, the importance of settings is chance.
MIN_FOR_IMPORTANCE = 8
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}


@dataclass(frozen=True)
class Search:
    """A search below `output`: what varies in `space`, and the `flags` that every trial shares."""

    space: Mapping
    output: Path
    flags: tuple[str, ...]

    def command(self, settings: Mapping, output: Path) -> list[str]:
        """Return the words of the training command with some settings."""
        chosen = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return ["training/train.py", *self.flags, *chosen, "--output-dir", str(output)]

    def run(self, trial: optuna.Trial) -> float:
        """Train with the settings that the trial suggests; returns the best score on validation."""
        settings = suggest(trial, self.space)
        folder = self.output / f"trial-{trial.number:04d}"
        words = self.command(settings, folder)
        launch = [sys.executable, "-m", "accelerate.commands.launch", str(ROOT / words[0]), *words[1:], "--no-test"]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(launch, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                history = _follow(process, trial, folder)
            except (KeyboardInterrupt, SystemExit):
                trial.study.enqueue_trial(trial.params)
                raise
            finally:
                _end(process)
                shutil.rmtree(folder / "state", ignore_errors=True)
                (folder / "best.safetensors").unlink(missing_ok=True)
        if process.returncode or not history:
            raise DataError(f"Trial {trial.number} failed; see {folder / 'log.txt'}.")
        (folder / "history.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
        return max(map(validation_score, history))


def _follow(process: subprocess.Popen, trial: optuna.Trial, folder: Path) -> list[dict]:
    """Report every epoch of a trial until its process ends; returns its history, raises `TrialPruned`."""
    history: list[dict] = []
    running = True
    while running:
        running = process.poll() is None
        latest = saved_history(folder)
        for epoch in range(len(history), len(latest)):
            trial.report(validation_score(latest[epoch]), epoch)
            if running and trial.should_prune():
                raise optuna.TrialPruned(f"worse than the others after epoch {epoch + 1}")
        history = latest or history
        time.sleep(POLL_SECONDS if running else 0)
    return history


def _end(process: subprocess.Popen) -> None:
    """End a trial with all its processes; the launcher alone would leave the training running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def suggest(trial: optuna.Trial, space: Mapping) -> dict:
    """Draw a value for every setting of the space."""
    settings = {}
    for name, choice in space.items():
        if isinstance(choice, list):
            settings[name] = trial.suggest_categorical(name, choice)
        elif all(isinstance(choice[end], int) for end in ("low", "high")):
            settings[name] = trial.suggest_int(name, **choice)
        else:
            settings[name] = trial.suggest_float(name, **choice)
    return settings


def read_space(file: Path) -> dict:
    """Read a search space; raises `DataError` that says what is wrong."""
    try:
        space = json.loads(file.read_text(encoding="utf-8"))
        for name, choice in space.items():
            is_range = isinstance(choice, dict) and {"low", "high"} <= set(choice) <= {"low", "high", "log", "step"}
            if not (is_range or (isinstance(choice, list) and choice)):
                raise ValueError(f'{name} is neither a list nor {{"low": …, "high": …, "log": true}}')
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{file} is not a search space: {error}.") from error
    return space


def open_study(output: Path, storage: str | None, sampler: str, seed: int) -> optuna.Study:
    """Open the study of an output folder, or start it."""
    output.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{output.resolve() / 'study.db'}"
    study = optuna.create_study(
        storage=url,
        study_name=output.resolve().name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    # Each continuation draws on: the same seed again would repeat the trials that are there.
    study.sampler = SAMPLERS[sampler](seed=seed + len(study.trials))
    return study


def save_plots(study: optuna.Study, folder: Path) -> None:
    """Draw the history of the study and, from `MIN_FOR_IMPORTANCE` trials on, which settings mattered."""
    plots = {"history": optuna.visualization.matplotlib.plot_optimization_history}
    if len(study.get_trials(states=(TrialState.COMPLETE,))) >= MIN_FOR_IMPORTANCE:
        plots["importance"] = optuna.visualization.matplotlib.plot_param_importances
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name, plot in plots.items():
            axes = plot(study)
            axes.figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=120)
            plt.close(axes.figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, search, and print the best settings as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", type=Path, required=True, help="JSON file of what varies")
    parser.add_argument("--trials", type=int, default=20, help="trials of the study in all (default 20)")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of study, plots and trials")
    parser.add_argument("--storage", help="URL of a shared Optuna storage (default: SQLite in --output-dir)")
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe")
    parser.add_argument("--search-seed", type=int, default=0, help="seed of the sampler")
    given, flags = parser.parse_known_args(arguments)
    plt.switch_backend("agg")  # no screen is needed
    try:
        search = Search(read_space(given.space), given.output_dir, tuple(flags))
        study = open_study(given.output_dir, given.storage, given.sampler, given.search_seed)
        if len(study.get_trials(states=DONE)) < given.trials:
            study.optimize(search.run, callbacks=[MaxTrialsCallback(given.trials, states=DONE)])
    except DataError as error:
        raise SystemExit(f"error: {error}") from error
    save_plots(study, given.output_dir)
    study.trials_dataframe().to_csv(given.output_dir / "trials.csv", index=False)
    best = search.command(study.best_params, given.output_dir / "best")
    print(f"Best of {len(study.get_trials(states=DONE))} trials: {study.best_value:.4f} on validation. Train it with:")
    print(shlex.join(["accelerate", "launch", *best]))


if __name__ == "__main__":
    # Without this, whoever ends the search leaves a training behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    main()
