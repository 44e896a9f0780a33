"""Searching for settings: what is tried, what is stopped, and what is told at the end."""

import json
import os
import subprocess
import sys
import time

import optuna
import pytest
from transformers import HfArgumentParser

from tests.helpers.scans import write_scans
from tests.helpers.training_runs import ENVIRONMENT, ROOT, SETTINGS
from training.data.sources import DataError
from training.learning.settings import TrainConfig
from training.learning.state import validation_score
from training.search import main, open_study, read_space, save_plots, suggest

SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "batch_size": [4, 8], "seed": {"low": 0, "high": 3}}


@pytest.fixture
def space(tmp_path):
    file = tmp_path / "space.json"
    file.write_text(json.dumps(SPACE))
    return file


def test_suggested_values_lie_in_the_space(space):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        settings = suggest(study.ask(), read_space(space))
        assert 1e-4 <= settings["learning_rate"] <= 1e-1
        assert settings["batch_size"] in (4, 8)
        assert settings["seed"] in range(4)


@pytest.mark.parametrize("wrong", ["[]", "{", '{"seed": 3}', '{"seed": []}', '{"seed": {"low": 1}}'])
def test_a_space_that_cannot_be_read_is_refused(tmp_path, wrong):
    (tmp_path / "space.json").write_text(wrong)
    with pytest.raises(DataError, match=r"space\.json is not a search space"):
        read_space(tmp_path / "space.json")


def test_epochs_are_scored_at_home_and_away():
    assert validation_score({"validation_macro_f1": 0.8}) == 0.8
    assert validation_score({"validation_macro_f1": 0.8, "validation_away": 0.6}) == pytest.approx(0.7)


def test_plots_show_what_mattered_once_there_are_enough_trials(tmp_path):
    study = open_study(tmp_path, None, "random", 0)
    for number in range(8):
        trial = study.ask()
        settings = suggest(trial, SPACE)
        study.tell(trial, settings["batch_size"] + number / 100)
    save_plots(study, tmp_path)
    assert {"history.png", "importance.png"} <= set(os.listdir(tmp_path))


def test_a_search_goes_on_and_ends_with_a_command(tmp_path, space, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    data, output = write_scans(tmp_path / "data", train=8, test=2), tmp_path / "search"
    flags = ["--data-dir", str(data), *SETTINGS, "--sizes", "32:2"]

    def search(trials):
        main(["--space", str(space), "--output-dir", str(output), "--trials", str(trials), *flags])
        return capsys.readouterr().out.strip().splitlines()[-2:]

    search(1)
    first = (output / "trial-0000" / "history.json").read_text()
    best, command = search(2)
    assert (output / "trial-0000" / "history.json").read_text() == first
    assert set(os.listdir(output / "trial-0001")) == {"log.txt", "history.json"}
    histories = [json.loads((output / f"trial-000{n}" / "history.json").read_text()) for n in (0, 1)]
    scores = [max(map(validation_score, history)) for history in histories]
    assert best == f"Best of 2 trials: {max(scores):.4f} on validation. Train it with:"
    words = command.split()
    assert words[:3] == ["accelerate", "launch", "training/train.py"]
    (settings,) = HfArgumentParser(TrainConfig).parse_args_into_dataclasses(words[3:])
    assert settings.test
    assert settings.batch_size in SPACE["batch_size"]
    for name in ("history.png", "trials.csv", "study.db"):
        assert (output / name).stat().st_size > 100


def test_a_search_that_is_ended_takes_its_training_along_and_begins_with_its_settings_again(tmp_path, space):
    data, output = write_scans(tmp_path / "data", train=8, test=2), tmp_path / "search"
    flags = ["--data-dir", str(data), *SETTINGS, "--sizes", "32:500"]
    words = ["--space", str(space), "--output-dir", str(output), "--trials", "1", *flags]
    process = subprocess.Popen([sys.executable, "-m", "training.search", *words], cwd=ROOT, env=ENVIRONMENT)
    trial = output / "trial-0000"
    while process.poll() is None and not [*trial.glob("state/epoch-*")]:
        time.sleep(0.05)
    process.terminate()
    assert process.wait() == 128 + 15
    assert set(os.listdir(trial)) == {"log.txt"}
    study = open_study(output, None, "tpe", 0)
    assert study.trials[0].params
    assert suggest(study.ask(), read_space(space)) == study.trials[0].params
