"""Publish on the Hub: a finished checkpoint folder, or the Space from this repository.

python -m training.publish push FOLDER org/name [--private] [--revision BRANCH] [--overwrite]
python -m training.publish space org/name [--private]
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, HTTPError
from jinja2 import UndefinedError

from brain_xai.checkpoint.catalog import load_checkpoint
from brain_xai.checkpoint.schema import WEIGHTS_NAME, CheckpointError
from training.data.splits import split_of
from training.publishing.space import SpaceError, check_front_matter, space_files
from training.report.card import card_of

# What is published of a run's folder; whatever else lies there stays at home.
FILES = ("config.json", WEIGHTS_NAME, "metrics.json", "official.json", "explanations.json")
FOLDERS = ("figures", "examples")
# Seconds before a step that failed on the way is tried again.
PAUSES = (1, 2, 4, 8)
PASSING_STATUSES = (408, 429, 500, 502, 503, 504)
# So often somebody else may commit between our look at the head and our commit.
RACES = 3
NO_TOKEN = (
    "There is no token for the Hub. Make one with write rights at https://huggingface.co/settings/tokens, then run "
    "`hf auth login`, or set HF_TOKEN."
)

Result = TypeVar("Result")
# Given the client and the sha of a head; raises `PushError` where nothing may be put on top of it.
Check = Callable[[HfApi, str], None]


class PushError(Exception):
    """Nothing was published, or not all of it; the message says why."""


@dataclass(frozen=True)
class Parcel:
    """What goes where as one commit: `files` {path in the repository: file, or content} to the branch of a repository.

    Of what lies there, all goes that is under a name in `owned` (a folder's ends with /) and no longer among the files.
    """

    repo_id: str
    kind: str
    files: Mapping[str, Path | bytes]
    owned: Collection[str]
    message: str
    private: bool
    branch: str = "main"

    @property
    def repository(self) -> dict[str, str]:
        """How the Hub's client wants the repository named."""
        return {"repo_id": self.repo_id, "repo_type": self.kind}

    def is_gone(self, name: str) -> bool:
        """Return whether a file on the Hub is ours, and no longer among our files."""
        places = (name == place or (place.endswith("/") and name.startswith(place)) for place in self.owned)
        return name not in self.files and any(places)


@dataclass(frozen=True)
class Published:
    """A commit on the Hub: its `url`, the `revision` (commit sha), and the `tag` of the run ("" for a Space)."""

    url: str
    revision: str
    tag: str = ""


def push(
    folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None, overwrite: bool = False
) -> Published:
    """Publish a run's folder as one commit on a branch, main unless told, and tag it.

    The card is written anew with the name under which the checkpoint can be loaded. Refuses to take the place of a
    checkpoint with a better macro-F1 on validation, or of one that cannot be compared, unless told to `overwrite`.
    A step that fails on the way is tried again; files that have arrived are not sent twice. Raises `PushError`.
    """
    try:
        classifier = load_checkpoint(folder)
    except CheckpointError as error:
        raise PushError(str(error)) from error
    if not classifier.metrics:
        raise PushError(f"{folder} has no metrics.json: only what was measured is published.")
    tag = f"run-{datetime.now(UTC):%Y%m%d}-{classifier.info.revision[:8]}"
    files: dict[str, Path | bytes] = {name: folder / name for name in FILES if (folder / name).is_file()}
    for name in FOLDERS:
        files |= {f"{name}/{path.name}": path for path in sorted((folder / name).glob("*.png"))}
    try:
        files["README.md"] = card_of(folder, repo_id, tag).encode()
    except (KeyError, TypeError, UndefinedError) as error:
        raise PushError(f"No card can be written, because metrics.json lacks something: {error}.") from error

    def check(api: HfApi, head: str) -> None:
        if not overwrite:
            _refuse_worse(classifier.metrics, _published_metrics(api, repo_id, head))

    owned = (*FILES, *(f"{name}/" for name in FOLDERS))
    message = f"Publish {classifier.info.architecture}, {tag}"
    return _publish(Parcel(repo_id, "model", files, owned, message, private, revision or "main"), check, tag)


def push_space(repo_id: str, root: Path, *, private: bool = False) -> Published:
    """Create or update the Space from the repository in `root` as one commit; raises `PushError`."""
    try:
        check_front_matter((root / "README.md").read_text(encoding="utf-8"), root)
    except SpaceError as error:
        raise PushError(str(error)) from error
    return _publish(Parcel(repo_id, "space", space_files(root), ["brain_xai/"], "Update from the repository", private))


def push_after_training(folder: Path, repo_id: str, private: bool, revision: str | None) -> None:
    """Push, or print why not and what to do; whatever happens, the run has succeeded."""
    try:
        print_published(push(folder, repo_id, private=private, revision=revision), repo_id)
    except Exception as error:  # hours of training must not end in a stack trace about a connection
        arguments = ["--private"] if private else []
        arguments += ["--revision", revision] if revision else []
        command = shlex.join(["python", "-m", "training.publish", "push", str(folder), repo_id, *arguments])
        print_failure(error, folder, command)


def print_published(published: Published, repo_id: str) -> None:
    print(f"Published: {published.url}")
    if published.tag:
        print(f"Tag: {published.tag}. To serve it: BRAIN_XAI_CHECKPOINTS={repo_id}@{published.tag} python app.py")


def print_failure(error: Exception, folder: Path | None, command: str) -> None:
    print(f"Not published: {error}", file=sys.stderr)
    if folder is not None:
        print(f"The checkpoint is safe in {folder}. To try again:", file=sys.stderr)
    print(f"  {command}", file=sys.stderr)


def _publish(parcel: Parcel, check: Check = lambda api, head: None, tag: str = "") -> Published:
    """Make the repository where it is missing, commit and tag; `check` may refuse to commit on top of a head."""
    token = get_token()
    if token is None:
        raise PushError(NO_TOKEN)
    api, repository = HfApi(token=token), parcel.repository
    sdk = {"space_sdk": "gradio"} if parcel.kind == "space" else {}
    try:
        _patiently(lambda: api.create_repo(**repository, private=parcel.private, exist_ok=True, **sdk))
        if parcel.branch != "main":
            _patiently(lambda: api.create_branch(**repository, branch=parcel.branch, exist_ok=True))
        commit = _commit(api, parcel, check)
        if tag:
            _patiently(lambda: api.create_tag(**repository, tag=tag, revision=commit.oid, exist_ok=True))
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise PushError(_sentence(error, parcel.repo_id)) from error
    return Published(commit.commit_url, commit.oid, tag)


def _commit(api: HfApi, parcel: Parcel, check: Check) -> CommitInfo:
    """Commit on top of the head that was checked; where somebody else was faster, check again."""
    for _ in range(RACES):
        head = _patiently(lambda: api.repo_info(**parcel.repository, revision=parcel.branch))
        if parcel.private and not head.private:
            raise PushError(
                f"{parcel.repo_id} is there already, and public. Make it private in its settings, or leave out "
                "--private."
            )
        check(api, head.sha)
        gone = [file.rfilename for file in head.siblings or [] if parcel.is_gone(file.rfilename)]

        def commit(parent: str = head.sha, gone: Sequence[str] = gone) -> CommitInfo:
            return api.create_commit(
                **parcel.repository,
                operations=[
                    *(CommitOperationAdd(name, content) for name, content in parcel.files.items()),
                    *(CommitOperationDelete(name) for name in gone),
                ],
                commit_message=parcel.message,
                revision=parcel.branch,
                parent_commit=parent,
            )

        try:
            return _patiently(commit)
        except HfHubHTTPError as error:
            if error.response.status_code != 412:  # the head is no longer the one that was checked
                raise
    raise PushError(f"Others keep changing {parcel.repo_id} at this moment. Try again later.")


def _published_metrics(api: HfApi, repo_id: str, head: str) -> dict | None:
    """Return the metrics.json of a commit, None where it has none."""
    try:
        file = _patiently(lambda: api.hf_hub_download(repo_id, "metrics.json", revision=head))
    except EntryNotFoundError:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        return {}


def _refuse_worse(ours: dict, published: dict | None) -> None:
    """Raise `PushError` where the published checkpoint is better, or cannot be compared."""
    if published is None:
        return
    try:
        same = split_of(published) == split_of(ours)
        there, here = (metrics["validation"]["macro_f1"]["value"] for metrics in (published, ours))
    except (KeyError, TypeError):
        same = False
    if not same:
        raise PushError(
            "The published checkpoint was measured on another split or other data, so nobody knows which is better. "
            "Use another name or --revision, or --overwrite."
        )
    if there > here:
        raise PushError(
            f"The published checkpoint is better: macro-F1 {there:.4f} on validation, this one has {here:.4f}. "
            "Use another name or --revision, or --overwrite."
        )


def _patiently(step: Callable[[], Result]) -> Result:
    """Take a step; where the connection or the Hub fails for the moment, take it again after a while."""
    for pause in PAUSES:
        try:
            return step()
        except (HTTPError, OSError, RuntimeError) as error:
            if not _is_passing(error):
                raise
            print(f"The Hub did not answer ({_reason(error)}); trying again in {pause} s.", file=sys.stderr)
        time.sleep(pause)
    return step()


def _is_passing(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, may be gone in a moment."""
    if error is None:
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING_STATUSES
    # The client wraps what breaks an upload into a RuntimeError.
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError)) or _is_passing(error.__cause__)


def _reason(error: BaseException) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return _reason(error.__cause__) if isinstance(error, RuntimeError) and error.__cause__ else type(error).__name__


def _sentence(error: Exception, repo_id: str) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no name for a repository: it must be org/name."
    if status == 401:
        return "The Hub does not know this token. Log in again with `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return f"The token may not write to {repo_id}. Use one with write rights for it."
    if _is_passing(error):
        return f"The Hub cannot be reached, or not now ({_reason(error)})."
    while isinstance(error, RuntimeError) and error.__cause__:
        error = error.__cause__
    return f"The Hub refused: {str(error).strip().splitlines()[-1]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("push", help="publish a finished checkpoint folder")
    one.add_argument("folder", type=Path)
    one.add_argument("repo_id", metavar="org/name")
    one.add_argument("--revision", help="branch; made if missing (default: main)")
    one.add_argument("--overwrite", action="store_true", help="also in place of a better checkpoint")
    two = commands.add_parser("space", help="create or update the Space from this repository")
    two.add_argument("repo_id", metavar="org/name")
    for command in (one, two):
        command.add_argument("--private", action="store_true", help="make a new repository private")
    given = parser.parse_args(arguments)
    folder = given.folder if given.command == "push" else None
    try:
        if folder is None:
            published = push_space(given.repo_id, Path(__file__).resolve().parent.parent, private=given.private)
        else:
            settings = {"private": given.private, "revision": given.revision, "overwrite": given.overwrite}
            published = push(folder, given.repo_id, **settings)
    except PushError as error:
        again = sys.argv[1:] if arguments is None else arguments
        print_failure(error, folder, shlex.join(["python", "-m", "training.publish", *again]))
        return 1
    print_published(published, given.repo_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
