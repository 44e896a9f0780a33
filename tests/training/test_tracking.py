"""Tracking and energy: what is said where a library is missing, and what the meter adds up."""

import json
import sys
from dataclasses import replace

import pytest

from tests.helpers.training_runs import new_accelerator
from training.data.sources import DataError
from training.finish import describe_energy
from training.learning.energy import EnergyMeter
from training.learning.settings import TrainConfig
from training.learning.tracking import Track, accelerator_of, log_epoch, start_tracking


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "run").mkdir()
    return TrainConfig(str(tmp_path / "run"), data_dir="scans")


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb", "mlflow"])
def test_a_missing_tracker_is_named_with_the_way_to_get_it(settings, tracker, monkeypatch):
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(DataError, match=f"--report-to {tracker} needs {tracker}. Install it with: pip install"):
        accelerator_of(replace(settings, report_to=tracker))


def test_nothing_is_tracked_unless_asked_for(settings, tmp_path):
    accelerator = new_accelerator(settings)
    assert start_tracking(settings, accelerator) is None
    log_epoch(accelerator, {"epoch": 1, "train_loss": 0.5})
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_a_run_is_tracked_under_a_name_of_its_own(settings, tmp_path):
    """What the tracker wrote is read in tests/end_to_end/test_train.py."""
    settings = replace(settings, report_to="tensorboard")
    new_accelerator(settings)  # a fresh state
    track = start_tracking(settings, accelerator_of(settings))
    assert (tmp_path / "tracking" / "tensorboard" / track.run).is_dir()
    assert Track(**json.loads((tmp_path / "run" / "tracking.json").read_text())) == track
    resumed = replace(settings, resume=True)
    assert start_tracking(resumed, accelerator_of(resumed)) == track
    assert start_tracking(settings, accelerator_of(settings)) != track


def test_energy_needs_codecarbon(settings, monkeypatch):
    accelerator = new_accelerator(settings)
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(DataError, match=r"--country needs codecarbon. Install it with: pip install codecarbon"):
        EnergyMeter("DEU", accelerator)


def test_energy_needs_a_country(settings):
    pytest.importorskip("codecarbon")
    with pytest.raises(DataError, match=r"--country Germany is not known. Use a three-letter code"):
        EnergyMeter("Germany", new_accelerator(settings))


def test_the_epochs_add_up(settings):
    pytest.importorskip("codecarbon")
    meter, history = EnergyMeter("DEU", new_accelerator(settings)), [{}, {}]
    for row in history:
        with meter.measuring(row):
            sum(range(1_000_000))
        assert row["energy_kwh"] > 0
        assert row["co2_kg"] > 0
    energy = describe_energy(replace(settings, country="DEU"), history)["energy"]
    assert energy["energy_kwh"] == history[0]["energy_kwh"] + history[1]["energy_kwh"]
    assert energy["country"] == "DEU"
    assert describe_energy(settings, history) == {}
