"""Make this process talk to a local Hub, and put any content into its repositories without a client."""

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.helpers.local_hub.__main__ import Hub
from tests.helpers.local_hub.store import File, large_file, regular_file


def use(endpoint: str, cache: Path, patch: pytest.MonkeyPatch, token: str = "hf_write") -> None:
    """Point the Hub's client in this process to `endpoint` and to a cache of its own."""
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    patch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(cache / "assets"))
    patch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    patch.setenv("HF_TOKEN", token)


def publish(hub: Hub, repo_id: str, files: dict[str, bytes], branch: str = "main") -> str:
    """Commit files as they are and return the sha; the repository and the branch are created if missing."""
    hub.store.create("models", repo_id)
    repository = hub.store.find("models", repo_id)
    if branch not in repository.refs["branches"]:
        repository.add_ref("branches", branch, repository.refs["branches"]["main"])
    added: dict[str, File] = {}
    for name, content in files.items():
        repository.add_object(content)
        is_large = name.endswith((".safetensors", ".bin"))
        digest = hashlib.sha256(content).hexdigest()
        added[name] = large_file(digest, len(content)) if is_large else regular_file(content)
    return repository.add_commit(branch, "from a test", added).sha


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of a folder by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
