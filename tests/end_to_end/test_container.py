"""The app as the Dockerfile starts it: with nothing but its own files, behind a proxy, until it is stopped."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

from tests.helpers.proxy import proxied
from tests.helpers.scans import make_scan
from tests.helpers.served import free_port, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dockerfile() -> dict[str, list[str]]:
    """The instructions of the Dockerfile: {name: arguments}."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    instructions: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, arguments = line.split(maxsplit=1)
            instructions.setdefault(name, []).append(arguments)
    return instructions


@pytest.fixture
def copied(dockerfile, tmp_path) -> Path:
    """The folder of the app, filled by the Dockerfile."""
    folder = tmp_path / "app"
    for source, target in copies(dockerfile):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, folder / target)
    return folder


def copies(dockerfile: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return what is copied where to."""
    return [(source, line.split()[-1]) for line in dockerfile["COPY"] for source in line.split()[:-1]]


def exec_form(instruction: str) -> list[str]:
    """Return the command of a CMD or HEALTHCHECK, run with the Python of the tests."""
    program, *arguments = json.loads(instruction[instruction.index("[") :])
    assert program == "python"
    return [sys.executable, *arguments]


def test_the_dockerfile_installs_and_copies_no_more_than_the_app_needs(dockerfile):
    assert "slim" in dockerfile["FROM"][0]
    assert dockerfile["USER"] == ["brain"]  # not root
    assert "--no-cache-dir -r requirements.txt -c constraints.txt" in dockerfile["RUN"][0]
    assert dockerfile["RUN"][0].count("pip install") == dockerfile["RUN"][0].count("-c constraints.txt")
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sent == [source for source, _ in copies(dockerfile)]


def test_the_versions_in_the_container_are_those_that_the_app_allows():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, exactly, version = line.partition("==")
            assert exactly, line
            pinned[canonicalize_name(name)] = Version(version)
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), line


def test_the_app_works_below_a_path_and_stops_without_a_trace(dockerfile, copied, tmp_path):
    port, home, temporary = free_port(), tmp_path / "home", tmp_path / "tmp"
    settings = dict(pair.split("=", 1) for pair in shlex.split(" ".join(dockerfile["ENV"])))
    here = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "GRADIO_ROOT_PATH": "/brain"}
    here |= {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = os.environ | settings | here
    environment.pop("GRADIO_TEMP_DIR")
    home.mkdir()
    temporary.mkdir()
    healthy = exec_form(dockerfile["HEALTHCHECK"][0])

    def is_healthy() -> bool:
        return subprocess.run(healthy, env=environment, stderr=subprocess.DEVNULL).returncode == 0

    files = sorted(copied.rglob("*"))
    arguments = {"cwd": copied, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(exec_form(dockerfile["CMD"][0]), **arguments, text=True) as app:
        try:
            assert not is_healthy()
            assert wait_until(lambda: app.poll() is not None or is_served(port)), "it is not served"
            assert app.poll() is None, app.stdout.read()
            assert is_healthy()
            with proxied(port, "/brain") as address:
                check_page(address)
                check_answer(address, tmp_path)
            assert list(temporary.glob("brain-xai-*/files/*/scan.png"))
            # Gradio would import it at the first call, where it is installed; Captum brings it.
            assert not [library for library in loaded_libraries(app.pid) if "matplotlib" in library]
        finally:
            app.terminate()
            printed, _ = app.communicate(timeout=120)
    assert "Traceback" not in printed
    assert not [*temporary.glob("brain-xai-*"), *temporary.glob("gradio*")]
    assert sorted(copied.rglob("*")) == files


def loaded_libraries(process: int) -> list[str]:
    """Return what a process has loaded; [] where the system does not tell."""
    maps = Path("/proc", str(process), "maps")
    return maps.read_text().splitlines() if maps.exists() else []


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def check_page(address: str) -> None:
    """The page, all it consists of, and its preview are below the path."""
    page = httpx.get(address).text
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", page)[1])
    assert config["root"] == address.rstrip("/")
    parts = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page)
    assert len(parts) >= 2
    titles = re.findall(r'property="og:title" content="([^"]*)"', page)
    [image] = re.findall(r'property="og:image" content="([^"]*)"', page)
    assert titles == ["Brain XAI"]
    assert image.startswith(address)
    for part in (*parts, image.removeprefix(address), "theme.css"):
        assert httpx.get(f"{address}{part}").status_code == 200, part


def check_answer(address: str, folder: Path) -> None:
    """An upload, its answer, and the files of the answer go through the proxy."""
    make_scan("glioma", 0, side=200).save(folder / "scan.png")
    client = Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)
    overlay, attribution, facts = client.predict(handle_file(folder / "scan.png"), api_name="/explain")[:3]
    assert sum(facts["prediction"]["probabilities"].values()) == pytest.approx(1)
    with Image.open(overlay) as image:
        assert image.size
    assert np.isfinite(np.load(attribution)).all()
    client.close()
