"""The program behind the table of architectures, on two tiny models."""

import json
import subprocess
import sys

import pytest

from brain_xai import METHODS
from tests.benchmarks.architectures import check, main
from tests.benchmarks.architectures_table import as_markdown, is_right
from tests.helpers.training_runs import ENVIRONMENT, ROOT

CAMS = {"grad_cam", "hires_cam", "layer_cam", "layer_activation"}
GUIDED = {"guided_backprop", "guided_grad_cam"}


def not_working(result):
    return {key for key, outcome in result["methods"].items() if outcome != {"works": ""}}


def test_a_transformer_is_checked():
    result = check("test_vit", 160)
    assert result["training"]["changed"] == 1
    assert max(result["logits"].values()) < 1e-3  # the same float32 sums in another order, through random weights
    assert result["methods"].keys() == METHODS.keys()
    assert not_working(result) == CAMS | GUIDED
    assert "Use occlusion" in result["methods"]["grad_cam"]["refused"]
    assert result["layers"] == {"last": None, "penultimate": None}
    assert {"prediction", "attention_relevance, auto", "occlusion, auto", "occlusion, captum"} == result["cost"].keys()
    assert "| `test_vit` |" in as_markdown({"test_vit": result}, ["test_vit"])


def test_the_command_adds_a_model_to_the_table(tmp_path):
    (tmp_path / "architectures.json").write_text(json.dumps({"gone": {"failed": "MemoryError"}}))
    command = [sys.executable, "tests/benchmarks/architectures.py", "--models", "test_efficientnet", "--side", "128"]
    done = subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, env=ENVIRONMENT, check=False)
    assert done.returncode == 0
    results = json.loads((tmp_path / "architectures.json").read_text())
    assert results.keys() == {"gone", "test_efficientnet"}
    result = results["test_efficientnet"]
    assert not_working(result) == {"attention_relevance"} | GUIDED
    last, penultimate = result["layers"].values()
    assert (last["stride"], penultimate["stride"]) == ([32, 32], [16, 16])
    assert is_right(last)
    assert is_right(penultimate)
    assert not is_right(last | {"error": last["error_stretched"]}), "where stretching the map would put it"
    assert result["cost"]["occlusion, captum"]["difference"] < 1e-3
    table = (tmp_path / "architectures.md").read_text(encoding="utf-8")
    assert "`gone` failed: MemoryError" in table
    assert "| `test_efficientnet` |" in table


def test_a_name_that_timm_does_not_know_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--models", "resnet19"])
    assert "timm has no resnet19." in capsys.readouterr().err
