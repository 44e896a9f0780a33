"""What `pip install .` gives: declared dependencies, one version, and the names that `brain_xai` exports."""

import ast
import inspect
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import brain_xai

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Before each import, or in its try block, somebody is told what to install.
OPTIONAL = {"codecarbon", "kagglehub", "mlflow", "pytorch_grad_cam", "spaces", "torchcam", "trackio"}
OURS = {"app", "brain_xai", "training", "tests"}


def test_all_lists_exactly_what_the_package_exports():
    exported = {
        name for name, value in vars(brain_xai).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert {*brain_xai.__all__} == exported | {"__version__"}


def test_every_exported_function_and_class_has_a_docstring():
    for name in brain_xai.__all__:
        value = getattr(brain_xai, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), name


def test_there_is_one_version_and_the_package_is_typed():
    assert re.fullmatch(r"\d+\.\d+\.\d+", brain_xai.__version__)
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "brain_xai.version.__version__"}
    assert (ROOT / "brain_xai" / "py.typed").is_file()


def imported(folder: Path) -> set[str]:
    """Top-level names of the libraries that the Python files of a folder import, at any depth of a file."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - OURS - OPTIONAL - sys.stdlib_module_names


def declared(requirements: Path) -> set[str]:
    """Normalized names of the distributions in a requirements file and in those it refers to."""
    names = set()
    for line in requirements.read_text().splitlines():
        if line.startswith("-r "):
            names |= declared(requirements.parent / line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            names.add(normalized(re.match(r"[\w.-]+", line).group()))
    return names


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize(
    ("folder", "requirements"),
    [
        ("brain_xai", "requirements.txt"),
        ("training", "training/requirements.txt"),
        ("tests", "tests/requirements.txt"),
    ],
)
def test_every_imported_library_is_declared(folder, requirements):
    names = declared(ROOT / requirements)
    for extra in PYPROJECT["project"]["optional-dependencies"].values():
        names |= {normalized(re.match(r"[\w.-]+", line).group()) for line in extra}
    distributions = packages_distributions()
    for library in imported(ROOT / folder):
        assert {normalized(name) for name in distributions[library]} & names, library
