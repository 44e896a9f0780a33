"""The app runs unchanged on a ZeroGPU Space, which stops apps that name no function for the GPU, and elsewhere."""

import sys

import pytest

from brain_xai.ui.serving import register_at_zero_gpu

SPACES = "named = []\n\n\ndef GPU(function):\n    named.append(function)\n    return function\n"


@pytest.fixture
def spaces(tmp_path, monkeypatch):
    """What a ZeroGPU Space has installed."""
    (tmp_path / "spaces.py").write_text(SPACES)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("spaces", None)


def test_a_zero_gpu_space_is_told_of_a_function(spaces, monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    register_at_zero_gpu()
    assert len(sys.modules["spaces"].named) == 1


def test_elsewhere_its_package_is_not_even_imported(spaces, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    register_at_zero_gpu()
    assert "spaces" not in sys.modules
