"""The house plan: who may import whom, and what is not allowed in the repository."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING_ONLY = {"training", "datasets", "evaluate", "accelerate", "sklearn", "matplotlib", "transformers"}


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


@pytest.mark.parametrize("file", sorted((ROOT / "brain_xai").rglob("*.py")), ids=lambda f: f.name)
def test_brain_xai_never_imports_training(file):
    assert not {name.split(".")[0] for name in imported(file)} & TRAINING_ONLY


def test_gradio_is_imported_by_the_page_alone():
    for file in [*(ROOT / "brain_xai").rglob("*.py"), *(ROOT / "training").rglob("*.py")]:
        if "ui" not in file.parts:
            assert "gradio" not in {name.split(".")[0] for name in imported(file)}, file


def test_no_file_shadows_a_library():
    names = {file.stem for file in (ROOT / "training").glob("*.py")}
    assert not names & {"evaluate", "datasets", "accelerate", "transformers", "timm", "torch"}


def test_importing_brain_xai_loads_neither_gradio_nor_training():
    code = f"import brain_xai, sys; print(sorted({TRAINING_ONLY | {'gradio'}!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_pickles_no_scans_no_large_files():
    for name in tracked():
        assert not name.endswith((".pt", ".pth", ".pkl", ".bin", ".ckpt", ".npy"))
        assert not Path(name).name.startswith(("Tr-", "Te-"))
        assert (ROOT / name).stat().st_size <= 10_000_000, name
