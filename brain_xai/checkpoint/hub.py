"""Download checkpoints from the Hugging Face Hub into the cache that all Hugging Face libraries share."""

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from brain_xai.checkpoint.folder import sha256_of
from brain_xai.checkpoint.schema import PICKLES, WEIGHTS_NAME, CheckpointError, check_size
from brain_xai.classifier import PredictionWarning

# Besides the weights, only these files and the example images are downloaded: never a pickle, never code.
TEXT_FILES = ("config.json", "metrics.json", "official.json", "explanations.json", "README.md", "examples/cases.csv")
EXAMPLE_NAME = re.compile(r"examples/[\w.-]+\.(?:png|jpg)", re.ASCII)
MAX_SMALL_BYTES = 5_000_000
MAX_SMALL_FILES = 50
# Timeout of one Hub request; the client's defaults (10 s, five retries) would block for half a minute.
ANSWER_SECONDS = 5
# Seconds to wait before an interrupted download is resumed.
RETRY_DELAYS = (1, 3)


class HubUnreachable(CheckpointError):
    """The Hub is unreachable or temporarily unavailable."""


class HubOffline(HubUnreachable):
    """The Hub's client is in offline mode, so retrying in this process is pointless."""


class NotOnHub(CheckpointError):
    """The Hub has no such repository or revision, or does not show it to this server."""


@dataclass(frozen=True)
class Snapshot:
    """One revision of a repository on this disk: its `folder`, and `revision`, the commit sha."""

    folder: Path
    revision: str


def split_name(name: str) -> tuple[str, str]:
    """Return repository and revision of "org/repo@revision"; the default revision is the branch main."""
    repo_id, _, revision = name.partition("@")
    return repo_id, revision or "main"


def is_pinned(name: str) -> bool:
    """Return whether the id names a commit by its full sha, so that its content never changes."""
    return re.fullmatch("[0-9a-f]{40}", split_name(name)[1]) is not None


def pull(name: str) -> Snapshot:
    """Download the newest revision of "org/repo@revision", unless it is the one that loaded here last.

    Files that are too large, pickled or unsafely named are rejected before the download; weights whose SHA-256 is not
    the one the Hub lists are rejected after it. The Hub is not asked about a pinned commit that has loaded before.

    Raises:
        HubUnreachable: The Hub does not answer, or the download was interrupted.
        NotOnHub: The repository or revision does not exist or is not shown to this server.
        CheckpointError: The content of the repository was rejected.
    """
    loaded = last_loaded(name)
    if loaded is not None and is_pinned(name):
        return loaded
    from huggingface_hub import HfApi  # takes a third of a second to import; bundled checkpoints do not need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    repo_id, revision = split_name(name)
    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS)
        return loaded if loaded is not None and loaded.revision == info.sha else _download(repo_id, info)
    except CheckpointError as error:
        raise CheckpointError(f"{name} cannot be loaded. {error}") from error
    except HFValidationError as error:
        raise CheckpointError(f"{name} is neither a local folder nor an id on the Hub (org/name@revision).") from error
    except OfflineModeIsEnabled as error:
        raise HubOffline(f"{name} cannot be downloaded from the Hub in offline mode (HF_HUB_OFFLINE).") from error
    except Exception as error:  # the client passes on the exceptions of several HTTP libraries
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403, 404, 410, 451):
            raise NotOnHub(
                f"The Hub has no checkpoint {name}, or does not show it to this server. "
                "Check the spelling and, for a private one, the token (HF_TOKEN)."
            ) from error
        reason = status or type(error).__name__
        raise HubUnreachable(f"{name} cannot be downloaded from the Hub now ({reason}).") from error


def cached(name: str) -> Snapshot | None:
    """Return the revision that loaded last, else one that another program downloaded, else None. No network."""
    return last_loaded(name) or _in_shared_cache(*split_name(name))


def last_loaded(name: str) -> Snapshot | None:
    """Return the last revision of "org/repo@revision" that `remember` was called with, if it is still in the cache."""
    try:
        sha = _memory_of(name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return _in_shared_cache(split_name(name)[0], sha)


def remember(name: str, snapshot: Snapshot) -> None:
    """Record that a revision has loaded, so that it is used while the Hub is away, also after a restart."""
    if last_loaded(name) == snapshot:
        return
    with suppress(OSError, ValueError):  # a read-only home folder only costs the offline copy
        file = _memory_of(name)
        partial = file.with_name(f"{file.name}.{uuid4().hex}")
        partial.write_text(snapshot.revision, encoding="utf-8")
        partial.replace(file)


def forget(name: str, snapshot: Snapshot) -> None:
    """Undo `remember` for a revision that no longer loads, so that the next `pull` checks its files again."""
    if last_loaded(name) == snapshot:
        with suppress(OSError, ValueError):
            _memory_of(name).unlink(missing_ok=True)


def unreachable_warning(name: str, revision: str) -> PredictionWarning:
    """Warn that a cached copy is used because the Hub does not answer."""
    return PredictionWarning(
        "hub_unreachable",
        f"The Hub cannot be reached, so the cached copy of {name} is used (revision {revision[:12]}). There may be a "
        "newer one.",
    )


def unchecked_warning(name: str, revision: str) -> PredictionWarning:
    """Warn that a cached copy is used because the Hub has not answered yet."""
    return PredictionWarning(
        "hub_unreachable",
        f"The Hub has not finished answering whether there is a newer revision of {name}, so the cached copy is used "
        f"(revision {revision[:12]}).",
    )


def removed_warning(name: str, revision: str) -> PredictionWarning:
    """Warn that a cached copy is used of a checkpoint that the Hub no longer offers."""
    return PredictionWarning(
        "removed_from_hub",
        f"{name} is no longer on the Hub, or no longer shown to this server, so the cached copy is used (revision "
        f"{revision[:12]}).",
    )


def _download(repo_id: str, info: Any) -> Snapshot:
    """Download the wanted files of the commit that a `ModelInfo` describes, and check the weights."""
    listed = {file.rfilename: file for file in info.siblings or []}
    wanted = _wanted_files({name: _size(file) for name, file in listed.items()})
    folder = _download_files(repo_id, info.sha, wanted)
    if not all((folder / name).is_file() for name in wanted):
        raise ConnectionError("the download is incomplete")  # old clients return what they have when the Hub goes away
    weights = listed[WEIGHTS_NAME]
    if weights.lfs is not None:
        _check_sha256(folder / WEIGHTS_NAME, weights.lfs.sha256)
    return Snapshot(folder, info.sha)


def _download_files(repo_id: str, sha: str, files: list[str]) -> Path:
    """Download files of a commit into the cache and return their folder; interrupted downloads resume."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    def attempt() -> Path:
        folder = snapshot_download(repo_id, revision=sha, allow_patterns=files, etag_timeout=ANSWER_SECONDS)
        return Path(folder)

    for delay in RETRY_DELAYS:
        try:
            return attempt()
        except HfHubHTTPError:
            raise  # a definite answer: do not retry
        except (HTTPError, OSError):
            time.sleep(delay)
    return attempt()


def _size(file: Any) -> int | None:
    """Return the size in bytes of a `RepoSibling`; servers may list that of the pointer to a large file, too."""
    sizes = [file.size, file.lfs.size if file.lfs is not None else None]
    return max((size for size in sizes if size is not None), default=None)


def _wanted_files(sizes: dict[str, int | None]) -> list[str]:
    """Return which of a repository's files, {name: bytes}, to download; raises `CheckpointError`."""
    for name in sizes:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise CheckpointError("The repository has file names that point outside it, so nothing is downloaded.")
    if WEIGHTS_NAME not in sizes:
        pickled = any(name.endswith(PICKLES) for name in sizes)
        found = "only pickled weights, which could run code" if pickled else f"no {WEIGHTS_NAME}"
        raise CheckpointError(f"The repository has {found}, so it is not a checkpoint of this project.")
    if "config.json" not in sizes:
        raise CheckpointError("The repository has no config.json, so it is not a checkpoint of this project.")
    small = [name for name in TEXT_FILES if name in sizes] + list(filter(EXAMPLE_NAME.fullmatch, sizes))
    wanted = [*small[:MAX_SMALL_FILES], WEIGHTS_NAME]
    for name in wanted:
        size = sizes[name]
        if size is None:
            raise CheckpointError(f"The Hub does not say how large {name} is, so nothing is downloaded.")
        if name != WEIGHTS_NAME and size > MAX_SMALL_BYTES:
            raise CheckpointError(f"{name} has {size / 1e6:,.0f} MB, so nothing is downloaded.")
    check_size(sizes[WEIGHTS_NAME])
    return wanted


def _check_sha256(file: Path, expected: str) -> None:
    """Refuse a file whose content is not what the Hub lists, and take it out of the cache; raises `CheckpointError`."""
    actual = sha256_of(file)
    if actual == expected:
        return
    content = file.resolve()
    file.unlink()
    if content.name == expected:  # damaged; under another name it is the intact file of another revision
        content.unlink(missing_ok=True)
    raise CheckpointError(
        f"The downloaded {file.name} is not the file that the Hub lists (SHA-256 {actual[:12]} instead of "
        f"{expected[:12]}), so it is not used."
    )


def _in_shared_cache(repo_id: str, revision: str) -> Snapshot | None:
    """Return a revision whose weights are in the cache of the Hub's client."""
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(repo_id, WEIGHTS_NAME, revision=revision)
    except (OSError, ValueError):
        return None
    if not isinstance(file, str):
        return None
    folder = Path(file).parent
    return Snapshot(folder, folder.name)


def _memory_of(name: str) -> Path:
    """Return the file that holds the sha of the last revision that loaded.

    The client's own note of a branch, refs/<branch> in its cache, would not do: every download overwrites it, also
    that of a revision that turns out not to load. So this is a file in the folder the client reserves for libraries.
    """
    from huggingface_hub import cached_assets_path

    return cached_assets_path("brain_xai", namespace="hub", subfolder="last_loaded") / quote(name, safe="")
