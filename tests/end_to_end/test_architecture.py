"""The house plan: who may import whom, how long a function may be, and what is not allowed in the repository."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING_ONLY = {"training", "datasets", "evaluate", "accelerate", "sklearn", "matplotlib", "transformers"}
MAX_FUNCTION_LINES = 45
PICKLES = (".pt", ".pth", ".pkl", ".bin", ".ckpt", ".npy")
MAX_FILE_BYTES = 1_000_000
MAX_BUNDLED_BYTES = 13_000_000


def modules() -> dict[str, Path]:
    """The modules of the project by their dotted names."""
    files = [ROOT / "app.py", *(ROOT / "brain_xai").rglob("*.py"), *(ROOT / "training").rglob("*.py")]
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted(files)
        if "__pycache__" not in file.parts
    }


def imported(file: Path) -> set[str]:
    """Every name that a file imports, at any depth: lazily and under TYPE_CHECKING, too.

    `from a import b` counts as a and as a.b, because b may be a module.
    """
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_graph() -> dict[str, set[str]]:
    """Which module imports which; a package counts only where something that its __init__ defines is imported."""
    known = modules()
    graph = {}
    for module, file in known.items():
        names = imported(file) & known.keys()
        graph[module] = {
            name for name in names if known[name].name != "__init__.py" or _names_taken(file, name) - known.keys()
        }
    return graph


def _names_taken(file: Path, package: str) -> set[str]:
    """What a file imports from a package, as dotted names."""
    return {
        f"{package}.{alias.name}"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == package
        for alias in node.names
    }


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module, and modules that import themselves."""
    reachable = {}
    for start in graph:
        seen, waiting = set(), [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        reachable[start] = seen
    found = {
        frozenset(name for name in reachable[start] if start in reachable[name])
        for start in graph
        if start in reachable[start]
    }
    return [set(circle) for circle in found]


def functions() -> Iterator[tuple[str, int]]:
    """Every function with its number of lines, its docstring not counted."""
    for module, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                docstring = first.end_lineno - first.lineno + 1 if is_docstring else 0
                yield f"{module}.{node.name}", node.end_lineno - node.lineno + 1 - docstring


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_brain_xai_never_imports_training():
    for module, file in modules().items():
        if module.split(".")[0] == "brain_xai":
            assert not {name.split(".")[0] for name in imported(file)} & TRAINING_ONLY, module


def test_gradio_is_imported_only_by_the_page():
    for module, file in modules().items():
        if not module.startswith("brain_xai.ui") and module != "app":
            assert "gradio" not in {name.split(".")[0] for name in imported(file)}, module


def test_the_package_works_without_its_page():
    for module, file in modules().items():
        if module.startswith("brain_xai") and not module.startswith("brain_xai.ui"):
            assert not any(name.startswith("brain_xai.ui") for name in imported(file)), module


def test_there_is_no_import_circle():
    assert circles(import_graph()) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}) in (
        [{"a", "b", "c"}, {"e"}],
        [{"e"}, {"a", "b", "c"}],
    )


def test_the_import_graph_knows_lazy_imports_and_packages():
    graph = import_graph()
    assert "brain_xai.checkpoint" in graph["brain_xai"]
    assert "brain_xai.preprocess" in graph["brain_xai.classifier"]
    assert "brain_xai" not in graph["brain_xai.classifier"]


def test_every_file_at_the_top_level_of_training_is_a_command():
    for file in (ROOT / "training").glob("*.py"):
        if file.stem not in ("__init__", "finish"):  # finish.py is the second half of train.py
            assert 'if __name__ == "__main__":' in file.read_text(encoding="utf-8"), file


def test_no_file_shadows_a_library():
    names = {file.stem for file in (ROOT / "training").glob("*.py")}
    assert not names & {"evaluate", "datasets", "accelerate", "transformers", "timm", "torch"}


def test_importing_brain_xai_loads_neither_gradio_nor_training():
    code = f"import brain_xai, sys; print(sorted({TRAINING_ONLY | {'gradio'}!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_function_is_longer_than_a_screen():
    too_long = {name: lines for name, lines in functions() if lines > MAX_FUNCTION_LINES}
    assert too_long == {}


def test_no_pickles_no_scans_no_large_files():
    for name in tracked():
        assert not name.endswith(PICKLES), name
        assert not Path(name).name.startswith(("Tr-", "Te-")), name
        limit = MAX_BUNDLED_BYTES if name.startswith("brain_xai/bundled/") else MAX_FILE_BYTES
        assert (ROOT / name).stat().st_size <= limit, name
