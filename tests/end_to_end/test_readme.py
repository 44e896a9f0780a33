"""What the README promises: its table is the measured one, its paths exist, its front matter fits a Space."""

import re
from pathlib import Path

import pytest
import yaml

from brain_xai import METHODS
from training.results import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_are_those_of_the_bundled_checkpoints():
    assert main(["--check", str(ROOT / "README.md")]) == 0


def test_every_place_it_names_exists():
    places = README.split("## Where is …?")[1].split("\n## ")[0]
    named = re.findall(r"`([\w/.]+)`", places)
    assert len(named) > 10
    for place in named:
        if "/" in place:
            assert (ROOT / place).exists(), place


def test_every_method_is_explained():
    for method in METHODS.values():
        assert f"| [{method.title}](" in README


def test_front_matter_fits_a_space():
    front_matter = yaml.safe_load(README.split("---")[1])
    assert front_matter["sdk"] == "gradio"
    assert (ROOT / front_matter["app_file"]).is_file()
    assert len(front_matter["short_description"]) <= 60
    requirement = re.search(r"gradio>=([\d.]+)", (ROOT / "requirements.txt").read_text()).group(1)
    assert front_matter["sdk_version"].startswith(requirement)


@pytest.mark.parametrize("file", ["requirements.txt", "training/requirements.txt", "tests/requirements.txt"])
def test_every_requirement_has_a_range(file):
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith(("#", "-r"))]
    assert lines
    assert all(re.search(r"[<>=]=", line) for line in lines)
