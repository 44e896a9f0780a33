"""Checkpoints on the Hub: fetched to the cache that all Hugging Face libraries share, safetensors and no code."""

import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from brain_xai.checkpoint.schema import PICKLES, WEIGHTS_NAME, CheckpointError, check_size
from brain_xai.classifier import PredictionWarning

# All that is ever fetched beside the weights and the pictures in examples/: never a pickle, never code.
TEXTS = ("config.json", "metrics.json", "explanations.json", "README.md")
MAX_SMALL_BYTES = 5_000_000
MAX_SMALL_FILES = 50
# For one question to the Hub; the client's own ten seconds and five tries would be half a minute.
ANSWER_SECONDS = 5
# Seconds before a download that broke off goes on.
PAUSES = (1, 3)


class HubUnreachable(CheckpointError):
    """The Hub does not answer, or not now."""


@dataclass(frozen=True)
class Snapshot:
    """A revision of a repository on this disk: its `folder`, the commit sha, and what to know about it, if anything."""

    folder: Path
    revision: str
    notices: tuple[PredictionWarning, ...] = ()


def split_name(name: str) -> tuple[str, str]:
    """Return repository and revision of "org/repo@revision"; without one it is the branch main."""
    repo_id, _, revision = name.partition("@")
    return repo_id, revision or "main"


def is_pinned(name: str) -> bool:
    """Return whether the id names a commit by its full sha, which never changes."""
    revision = split_name(name)[1]
    return len(revision) == 40 and set(revision) <= set("0123456789abcdef")


def pull(name: str) -> Snapshot:
    """Fetch the newest revision that "org/repo@revision" stands for, or nothing where it is here already.

    A pinned commit that is here is not asked for again. What is too large, a pickle or oddly named is refused before
    it is fetched. Raises `HubUnreachable`, or `CheckpointError` for what the Hub does not have or give.
    """
    if is_pinned(name) and (here := cached(name)):
        return here
    from huggingface_hub import HfApi  # takes a third of a second; bundled checkpoints do without
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    repo_id, revision = split_name(name)
    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS)
        files = _wanted({file.rfilename: file.size or 0 for file in info.siblings or []})
        for file in files:
            path = _fetch(repo_id, file, info.sha)
    except CheckpointError as error:
        raise CheckpointError(f"{name} cannot be loaded. {error}") from error
    except HFValidationError as error:
        raise CheckpointError(f"{name} is neither a folder here nor an id on the Hub (org/name@revision).") from error
    except Exception as error:  # the client passes on what the connection raises, of several libraries
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403, 404, 410, 451):
            raise CheckpointError(
                f"The Hub has no checkpoint {name}, or does not show it to this server. "
                "Check the spelling and, for a private one, the token (HF_TOKEN)."
            ) from error
        reason = "offline mode" if isinstance(error, OfflineModeIsEnabled) else type(error).__name__
        raise HubUnreachable(f"{name} cannot be fetched from the Hub now ({status or reason}).") from error
    folder = Path(path).parent  # of the weights, which come last: a snapshot that has them is whole
    _remember(folder, revision)
    return Snapshot(folder, info.sha)


def cached(name: str) -> Snapshot | None:
    """Return the revision that was fetched last, without asking the Hub; None where there is none."""
    from huggingface_hub import snapshot_download

    repo_id, revision = split_name(name)
    try:
        folder = Path(
            snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=[WEIGHTS_NAME])
        )
    except (OSError, ValueError):
        return None
    return Snapshot(folder, folder.name) if (folder / WEIGHTS_NAME).is_file() else None


def _fetch(repo_id: str, file: str, sha: str) -> str:
    """Return the path of a file that is in the cache from now on; what breaks off goes on where it was."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    for pause in PAUSES:
        try:
            return hf_hub_download(repo_id, file, revision=sha, etag_timeout=ANSWER_SECONDS)
        except HfHubHTTPError:
            raise  # the Hub has spoken
        except (HTTPError, OSError):
            time.sleep(pause)
    return hf_hub_download(repo_id, file, revision=sha, etag_timeout=ANSWER_SECONDS)


def unreachable_notice(name: str, revision: str) -> PredictionWarning:
    """Say that an earlier copy of a checkpoint answers."""
    return PredictionWarning(
        "hub_unreachable",
        f"The Hub cannot be reached. The copy of {name} that was fetched before answers (revision {revision[:12]}); "
        "there may be a newer one.",
    )


def _wanted(sizes: dict[str, int]) -> list[str]:
    """Return which of a repository's files, {name: bytes}, are fetched, the weights last."""
    for name in sizes:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise CheckpointError("The repository has files whose names lead out of it, so nothing of it is fetched.")
    if WEIGHTS_NAME not in sizes:
        pickled = any(name.endswith(PICKLES) for name in sizes)
        found = "only pickled weights, which could run code" if pickled else f"no {WEIGHTS_NAME}"
        raise CheckpointError(f"The repository has {found}, so it is not a checkpoint of this project.")
    check_size(sizes[WEIGHTS_NAME])
    small = [name for name in TEXTS if name in sizes] + [name for name in sizes if _is_example(name)]
    for name in small:
        if sizes[name] > MAX_SMALL_BYTES:
            raise CheckpointError(f"{name} has {sizes[name] / 1e6:,.0f} MB, so nothing of the repository is fetched.")
    return [*small[:MAX_SMALL_FILES], WEIGHTS_NAME]


def _is_example(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder == "examples" and file.endswith(".png")


def _remember(folder: Path, revision: str) -> None:
    """Note in the cache which commit a branch or tag stood for, as the Hub's client does, but once all is here."""
    if folder.name == revision:
        return
    note = folder.parent.parent / "refs" / revision
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_name(f"{note.name}.{uuid4().hex}")
    partial.write_text(folder.name, encoding="utf-8")
    partial.replace(note)
