"""What a run records about itself: every setting, and no path of the machine it ran on."""

import shlex
import sys

import pytest
from transformers import HfArgumentParser

from training import explanations, train
from training.learning.settings import TrainConfig, command_of, command_without_paths, settings_record


def paths_of(home):
    names = ("output_dir", "data_dir", "init_weights", "boxes", "teacher")
    return {name: str(home / "folder" / name) for name in names}


def test_records_hold_no_local_path(tmp_path):
    settings = TrainConfig(**paths_of(tmp_path), seed=3, resume=True, push_to_hub="org/name")
    record = settings_record(settings)
    assert not {"output_dir", "resume", "push_to_hub"} & set(record)
    assert record["data_dir"] == "data_dir"
    assert record["seed"] == 3
    for text in (str(record), command_of(settings)):
        assert tmp_path.name not in text
        assert "folder" not in text


@pytest.mark.parametrize("teacher", ["bundled/resnet18", "org/name@v1.0"])
def test_the_id_of_a_teacher_stays_whole(teacher):
    assert settings_record(TrainConfig("runs/a", teacher=teacher))["teacher"] == teacher


def test_the_recorded_command_repeats_the_run():
    settings = TrainConfig(
        "run", data_dir="my data", model_args='{"output_stride": 16}', pretrained=False, seed=7, resume=True
    )
    command = command_of(settings)
    assert "--resume" not in command
    (again,) = HfArgumentParser(TrainConfig).parse_args_into_dataclasses(shlex.split(command)[3:])
    assert settings_record(again) == settings_record(settings)
    assert again.output_dir == "run"


def test_commands_of_earlier_runs_lose_their_paths():
    earlier = (
        "accelerate launch training/train.py --data_dir /home/someone/scans --model resnet18 --seed 3\n"
        "accelerate launch training/train.py --data-dir=/home/someone/scans --teacher bundled/resnet18 "
        "--init-weights '/home/some one/run/model.safetensors'"
    )
    assert command_without_paths(earlier) == (
        "accelerate launch training/train.py --data_dir scans --model resnet18 --seed 3\n"
        "accelerate launch training/train.py --data-dir scans --teacher bundled/resnet18 "
        "--init-weights model.safetensors"
    )


@pytest.mark.parametrize("command", [train.main, explanations.main], ids=["train", "explanations"])
def test_an_unknown_flag_is_told_in_a_sentence(command, monkeypatch, capsys):
    needed = ["--output_dir", "run", "--checkpoint", "run", "--data_dir", "data", "--boxes", "boxes.csv"]
    monkeypatch.setattr(sys, "argv", ["command", *needed, "--imges", "9"])
    with pytest.raises(SystemExit) as stopped:
        command()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "error: unrecognized arguments: " in message
    assert "--imges 9" in message
