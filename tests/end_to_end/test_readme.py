"""What the README promises: its tables and figure are up to date, its code runs, its paths exist, it fits a Space."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image

import brain_xai
from brain_xai.ui.phantoms import phantoms
from tests.helpers.served import served
from tests.helpers.studies import head, series_of, to_bytes, write, write_nifti, zipped
from training.report.readme_figure import FIGURE, readme_figure
from training.results import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRONT_MATTER, TEXT = README.removeprefix("---\n").split("\n---\n", 1)
MAX_LINES = 160
STUDY = (ROOT / "brain_xai/study/README.md").read_text(encoding="utf-8")
API = (ROOT / "brain_xai/ui/API.md").read_text(encoding="utf-8")
DEFAULT_ADDRESS = "http://127.0.0.1:7860"
PAPERS = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]


def block(marker: str, text: str = TEXT) -> str:
    """The code block that follows `<!-- marker -->`."""
    return re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", text, re.DOTALL).group(1)


def lay_out(folder: Path) -> None:
    """Write the files that the blocks read."""
    phantoms()[0][1].save(folder / "scan.png")
    slices = {str(number): to_bytes(one) for number, one in enumerate(series_of(head(slices=3)))}
    zipped(folder / "series.zip", slices)


def run(code: str, folder: Path) -> str:
    """Run code in a process of its own, beside scan.png and series.zip; return what it prints."""
    lay_out(folder)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_short():
    assert len(TEXT.strip().splitlines()) <= MAX_LINES


def test_the_tables_are_those_of_the_bundled_checkpoints():
    assert main(["--check", str(ROOT / "README.md")]) == 0


def test_the_figure_is_what_its_program_draws():
    with Image.open(FIGURE) as image:
        stored = np.asarray(image, dtype=float)
    drawn = np.asarray(readme_figure(brain_xai.load_checkpoint("default")), dtype=float)
    assert stored.shape == drawn.shape
    # Other versions of Pillow and torch round differently; a Grad-CAM moved by a tenth of the width changes it by 0.7.
    assert np.abs(stored - drawn).mean() < 0.3


def test_the_python_block_runs_as_printed(tmp_path):
    printed = run(block("python-block"), tmp_path)
    for label in brain_xai.load_checkpoint("default").label_names:
        assert label in printed
    with Image.open(tmp_path / "map.png") as overlay:
        assert min(overlay.size) >= 480


@pytest.fixture(scope="module")
def address():
    with served() as (_, address):
        yield address.rstrip("/")


def at(address: str, code: str) -> str:
    """A block of code that calls the app at another address than the usual one."""
    assert DEFAULT_ADDRESS in code
    return code.replace(DEFAULT_ADDRESS, address)


def test_the_api_blocks_run_as_printed(address, tmp_path):
    assert "'probabilities'" in run(at(address, block("api-block")), tmp_path)
    printed = run(at(address, block("python-api-block", API)), tmp_path)
    assert "2 rows, 0 failed" in printed
    assert "3 slices, look first at" in printed
    assert str(brain_xai.load_checkpoint("default").info.id) in printed
    assert "'grad_cam'" in printed


def test_the_study_block_runs_as_printed(tmp_path):
    (tmp_path / "volumes").mkdir()
    volume, affine = head(slices=2, rows=64, columns=64).transpose(2, 1, 0), np.diag([1.0, 1, 5, 1])
    write_nifti(tmp_path / "volumes" / "first.nii.gz", volume, affine)
    write(tmp_path / "volumes" / "second", series_of(head(slices=3)))
    (tmp_path / "volumes" / "third.nii").write_bytes(b"It hurts.")
    printed = run(block("study-block", STUDY), tmp_path)
    assert "first: 2 slices" in printed
    assert "second: 3 slices" in printed
    assert "third: There is no DICOM or NIfTI file." in printed
    rows = list(csv.DictReader((tmp_path / "results" / "slices.csv").read_text().splitlines()))
    assert [row["study"] for row in rows] == ["first"] * 2 + ["second"] * 3
    saved = nibabel.load(tmp_path / "results" / "first.nii.gz")
    np.testing.assert_array_equal(saved.affine, affine)
    assert saved.shape == volume.shape


@pytest.mark.parametrize("name", ["curl-block", "curl-study-block"])
def test_the_curl_blocks_run_as_printed(name, address, tmp_path):
    if not (shutil.which("bash") and shutil.which("curl") and shutil.which("base64")):
        pytest.skip("no bash, curl or base64")
    lay_out(tmp_path)
    script = ["bash", "-ec", at(address, block(name, API))]
    printed = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "event: complete" in printed
    assert '"probabilities"' in printed


def test_the_javascript_block_runs_as_printed(address, tmp_path):
    modules = Path(os.environ.get("BRAIN_XAI_NODE_MODULES", ROOT / "node_modules"))
    if not shutil.which("node") or not (modules / "@gradio" / "client").is_dir():
        pytest.skip("no node, or no @gradio/client in BRAIN_XAI_NODE_MODULES")
    lay_out(tmp_path)
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "call.mjs").write_text(at(address, block("javascript-block", API)) + "process.exit(0);\n")
    script = ["node", "call.mjs"]
    printed = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "notumor" in printed
    assert "2 of 2" in printed
    assert "complete" in printed


def test_the_commands_name_files_and_settings_that_exist():
    commands = [line for paper in PAPERS for line in (ROOT / paper).read_text(encoding="utf-8").splitlines()]
    modules = {name for line in commands for name in re.findall(r"python -m ((?:training|tests)[\w.]+)", line)}
    assert len(modules) > 3
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    settings = subprocess.run(
        [sys.executable, "training/train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for line in commands:
        for option in re.findall(r"--[\w-]+", line.partition("training/train.py ")[2]):
            assert option in settings, line


@pytest.mark.parametrize("paper", PAPERS)
def test_every_path_it_names_exists(paper):
    text = (ROOT / paper).read_text(encoding="utf-8")
    named = re.findall(r"`((?:brain_xai|training|tests|\.ci)/[\w./]*)`", text) + re.findall(r"\]\((\w[\w./]*)\)", text)
    for path in named:
        assert (ROOT / path).exists(), path


def test_it_cites_this_version():
    assert f"version = {{{brain_xai.__version__}}}" in TEXT


def test_front_matter_fits_a_space():
    front_matter = yaml.safe_load(FRONT_MATTER)
    assert front_matter["sdk"] == "gradio"
    assert (ROOT / front_matter["app_file"]).is_file()
    assert len(front_matter["short_description"]) <= 60
    requirement = re.search(r"gradio>=([\d.]+)", (ROOT / "requirements.txt").read_text()).group(1)
    assert front_matter["sdk_version"].startswith(requirement)


@pytest.mark.parametrize("file", ["requirements.txt", "training/requirements.txt", "tests/requirements.txt"])
def test_every_requirement_has_a_range(file):
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith(("#", "-r", "-e"))]
    assert lines
    assert all(re.search(r"[<>=]=", line) for line in lines)
