"""Resuming: only the same run goes on, and every difference is named."""

import json
import shutil
from dataclasses import replace

import pytest

from tests.helpers.training_runs import new_accelerator
from training.data.sources import DataError
from training.data.splits import SplitIdentity
from training.learning.settings import TrainConfig, settings_record
from training.learning.state import BEST, TrainingState

SPLIT = SplitIdentity("purged", 0, "abc", {"train": 60, "validation": 20, "test": 20})


def row(epoch, macro_f1):
    return {"epoch": epoch, "validation_macro_f1": macro_f1}


@pytest.fixture
def interrupted(tmp_path):
    """The settings of a run that was interrupted after two epochs."""
    settings = TrainConfig(str(tmp_path / "run"), data_dir="scans", sizes="32:3")
    accelerator = new_accelerator(settings)
    state = TrainingState.open(settings, accelerator)
    state.set_data(SPLIT, "boxes")
    for epoch in (1, 2):
        state.history.append(row(epoch, 1 / 3))
        state.save(accelerator)
    return settings


def resume(settings, split=SPLIT, pool="boxes"):
    accelerator = new_accelerator(settings)
    state = TrainingState.open(replace(settings, resume=True), accelerator)
    state.set_data(split, pool)
    state.restore(accelerator)
    return state


def test_a_run_goes_on_after_its_last_epoch(interrupted):
    state = resume(interrupted)
    assert state.history == [row(1, 1 / 3), row(2, 1 / 3)]
    assert next(state.remaining_epochs()) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 7}, "--seed was 0, now 7"),
        ({"split": "official", "learning_rate": 0.01}, "--split was purged, now official; --learning-rate was 0.001"),
        ({"sizes": "32:4"}, "--sizes was 32:3, now 32:4"),
        ({"teacher": "bundled/resnet18"}, "--teacher was None, now bundled/resnet18"),
    ],
)
def test_other_settings_are_refused_by_name(interrupted, changes, says):
    with pytest.raises(DataError, match=says):
        resume(replace(interrupted, **changes))


def test_where_a_run_is_published_may_change(interrupted):
    assert len(resume(replace(interrupted, push_to_hub="org/name", private=True, revision="b")).history) == 2


def test_other_images_are_refused(interrupted):
    with pytest.raises(DataError, match="the split's fingerprint was abc, now def"):
        resume(interrupted, split=replace(SPLIT, fingerprint="def"))


def test_other_boxes_or_sources_are_refused(interrupted):
    with pytest.raises(DataError, match="the fingerprint of boxes and other sources was boxes, now more"):
        resume(interrupted, pool="more")


def test_another_number_of_processes_is_refused(interrupted):
    with pytest.raises(DataError, match="the number of processes was 1, now 2"):
        TrainingState(replace(interrupted, resume=True), processes=2).find_saved()


def test_a_finished_run_is_not_continued_with_other_settings(tmp_path):
    settings = TrainConfig(str(tmp_path), data_dir="scans", resume=True)
    config = {"brain_xai": {"training": settings_record(settings)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.json").write_text("{}")
    assert TrainingState.open(settings, new_accelerator(settings)).is_finished
    with pytest.raises(DataError, match="--seed was 0, now 7"):
        TrainingState.open(replace(settings, seed=7), new_accelerator(settings))


def test_the_last_epoch_is_kept_where_the_settings_say_so(tmp_path):
    settings = TrainConfig(str(tmp_path), sizes="32:4", patience=1, keep="last")
    state = TrainingState.open(settings, new_accelerator(settings))
    for epoch, macro_f1 in zip(state.remaining_epochs(), (0.5, 0.4, 0.3, 0.2), strict=True):
        state.history.append(row(epoch + 1, macro_f1))
        assert state.best["epoch"] == epoch + 1


def test_training_stops_after_epochs_without_a_better_one(tmp_path):
    settings = TrainConfig(str(tmp_path), sizes="32:9", patience=2)
    state = TrainingState.open(settings, new_accelerator(settings))
    for epoch, macro_f1 in zip(state.remaining_epochs(), (0.2, 0.5, 0.4, 0.5, 0.9), strict=False):
        state.history.append(row(epoch + 1, macro_f1))
    # The fourth epoch is as good as the second one, not better: two without a better one.
    assert len(state.history) == 4
    assert state.best["epoch"] == 2


def test_a_run_killed_while_it_deletes_its_state_is_finished(interrupted, monkeypatch):
    """Half a state would keep it from being resumed."""
    folder = TrainingState(interrupted, processes=1).folder
    (folder / "config.json").write_text(json.dumps({"brain_xai": {"training": settings_record(interrupted)}}))
    (folder / "metrics.json").write_text("{}")
    remove = shutil.rmtree

    def killed(path, **_):
        if path.exists():
            (path / "epoch-0002" / "run.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        TrainingState(interrupted, processes=1).clear()
    monkeypatch.setattr(shutil, "rmtree", remove)
    state = TrainingState.open(replace(interrupted, resume=True), new_accelerator(interrupted))
    assert state.is_finished
    state.clear()
    assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.json"}


def test_a_resumed_run_has_the_best_weights_of_its_own_epochs(interrupted):
    """It may have been killed after the next epoch had saved better ones, which may not come out as good again."""
    state, accelerator = TrainingState(interrupted, processes=1), new_accelerator(interrupted)
    state.set_data(SPLIT, "boxes")
    state.history = [row(epoch, 1 / 3) for epoch in (1, 2, 3)]
    (state.folder / BEST).write_text("best of 3")
    state.save(accelerator)
    (state.folder / BEST).write_text("best of 4, half wri")
    resume(interrupted)
    assert (state.folder / BEST).read_text() == "best of 3"
