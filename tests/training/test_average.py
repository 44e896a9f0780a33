"""The average of the weights of several runs."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.average import average, average_weights
from training.average import main as average_command
from training.data.sources import DataError

SPLIT = {"fingerprint": "f", "n": {"train": 1, "validation": 1, "test": 1}}


def weights(value: float, count: int = 3) -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.full((2, 2), value), "bn.num_batches_tracked": torch.tensor(count)}


def make_run(folder, value: float, seed: int = 0, energy: dict | None = None):
    folder.mkdir()
    save_file(weights(value), folder / "model.safetensors")
    training = {"seconds": 100.0 * value, "epochs": 2} | ({"energy": energy} if energy else {})
    record = {"split": "purged", "seed": seed, "data": SPLIT, "versions": {}, "training": training}
    record |= {
        "command": f"accelerate launch training/train.py --output-dir {folder.name}",
        "init": "start.safetensors",
    }
    (folder / "metrics.json").write_text(json.dumps(record))
    return folder


def test_each_model_counts_with_its_share():
    mixed = average_weights([weights(0.0), weights(1.0, count=9)], [1, 3])
    assert torch.equal(mixed["conv.weight"], torch.full((2, 2), 0.75))
    assert mixed["bn.num_batches_tracked"] == 3  # a counter, from the first


def test_models_of_another_architecture_are_refused():
    with pytest.raises(DataError, match="one architecture"):
        average_weights([weights(0.0), weights(1.0) | {"conv.weight": torch.zeros(3, 3)}], [1, 1])
    with pytest.raises(DataError, match="one architecture"):
        average_weights([weights(0.0), weights(1.0) | {"more": torch.zeros(1)}], [1, 1])


def test_the_record_names_every_command_and_adds_up_the_time(tmp_path, capsys):
    one, two = make_run(tmp_path / "one", 1.0, energy={"energy_kwh": 1}), make_run(tmp_path / "two", 2.0)
    average_command([str(one), str(two), "--output-dir", str(tmp_path / "mixed")])
    assert "start a short run" in capsys.readouterr().out
    assert torch.equal(load_file(tmp_path / "mixed" / "model.safetensors")["conv.weight"], torch.full((2, 2), 1.5))
    record = json.loads((tmp_path / "mixed" / "metrics.json").read_text())
    assert record["command"].splitlines() == [
        "accelerate launch training/train.py --output-dir one",
        "accelerate launch training/train.py --output-dir two",
        "python -m training.average one two --shares 1 1 --output-dir mixed",
    ]
    assert record["training"] == {"seconds": 300.0, "epochs": 2}
    assert record["init"] == "start.safetensors"


def test_runs_on_different_splits_are_refused(tmp_path):
    runs = [make_run(tmp_path / str(seed), 1.0, seed) for seed in range(2)]
    with pytest.raises(DataError, match="different splits"):
        average(runs, [1, 1], tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


@pytest.mark.parametrize("arguments", [["one"], ["one", "two", "--shares", "1"], ["one", "two", "--shares", "1", "0"]])
def test_what_cannot_be_averaged_gets_a_sentence(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        make_run(tmp_path / name, 1.0)
    with pytest.raises(SystemExit, match=r"^error: Name at least two runs"):
        average_command([*arguments, "--output-dir", "mixed"])


def test_a_folder_without_weights_gets_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"There is no model\.safetensors"):
        average([make_run(tmp_path / "one", 1.0), tmp_path], [1, 1], tmp_path / "mixed")
