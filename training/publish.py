"""Publish a finished checkpoint folder or the Space on the Hub, or bundle a checkpoint with the package.

python -m training.publish push FOLDER org/name [--private] [--revision BRANCH] [--overwrite]
python -m training.publish space org/name [--private]
python -m training.publish bundle FOLDER NAME [--official FOLDER]
"""

import argparse
import hashlib
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError
from jinja2 import UndefinedError

from brain_xai.checkpoint.catalog import BUNDLED, load_checkpoint
from brain_xai.checkpoint.schema import WEIGHTS_NAME, CheckpointError
from training.data.splits import SplitIdentity
from training.publishing.bundle import bundle
from training.publishing.local_paths import check_no_local_paths
from training.publishing.scans import MAPS, publishable_scans
from training.publishing.space import check_front_matter, space_files
from training.publishing.upload import (
    Files,
    Published,
    PushError,
    TagMissing,
    Upload,
    check_name,
    check_token,
    publish,
)
from training.report.card import card_of

__all__ = ["PushError", "check_token", "main", "push", "push_after_training", "push_space"]

ROOT = Path(__file__).resolve().parent.parent
# What is published of a run's folder, and deleted on the Hub when the folder no longer has it.
FILES = ("config.json", WEIGHTS_NAME, "metrics.json", "official.json", "explanations.json", "robustness.json")
FIGURES = ("figures/*.png", "examples/*")
NO_SCANS = (
    "Its scans (examples/ and figures/maps.png) stay here: they are published once examples/cases.csv has a credit "
    "line with the license of each."
)


def push(
    folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None, overwrite: bool = False
) -> Published:
    """Publish a run's folder as one commit with a tag of its own, under a card that names both.

    Args:
        folder: Checkpoint folder, with metrics.json.
        repo_id: org/name; created if it is missing.
        private: Whether a new repository is private; an existing one must be.
        revision: Branch, created from main if it is missing; None means main.
        overwrite: Also replace a checkpoint of the branch that is better, or that cannot be compared.

    Raises:
        PushError: Nothing was published, or (`TagMissing`) only the tag is missing.
    """
    check_name(repo_id)
    if not folder.is_dir():
        raise PushError(f"There is no folder {folder}.")
    try:
        classifier = load_checkpoint(folder.resolve())
    except CheckpointError as error:
        raise PushError(str(error)) from error
    if not classifier.metrics:
        raise PushError(f"{folder} has no metrics.json: only measured checkpoints are published.")
    files = _files_of(folder)
    check_no_local_paths(files)

    def with_card(tag: str) -> Files:
        return files | {"README.md": card_of(folder, repo_id, tag, has_maps=MAPS in files).encode()}

    def check(api: HfApi, head: str) -> None:
        if not overwrite:
            _check_not_worse(classifier.metrics, _published_metrics(api, repo_id, head))

    try:
        tag = f"run-{datetime.now(UTC):%Y%m%d}-{_digest(with_card('TAG'))[:8]}"
    except (KeyError, TypeError, UndefinedError) as error:
        raise PushError(f"No card can be written, because metrics.json lacks something: {error}.") from error
    message = f"Publish {classifier.info.architecture}"
    branch = revision or "main"
    return publish(Upload(repo_id, "model", with_card, (*FILES, *FIGURES), message, private, branch, tag), check)


def push_space(repo_id: str, root: Path, *, private: bool = False) -> Published:
    """Create or update the Space from the repository in `root` as one commit; raises `PushError`."""
    check_name(repo_id)
    check_front_matter(root)
    message = "Update from the repository"
    return publish(Upload(repo_id, "space", lambda tag: space_files(root), ["brain_xai/*"], message, private))


def push_after_training(folder: Path, repo_id: str, private: bool, revision: str | None) -> None:
    """Push, or print why that failed and what to do; never raises, because the training itself has succeeded."""
    try:
        _print_published(push(folder, repo_id, private=private, revision=revision), repo_id)
    except Exception as error:  # hours of training must not end in a stack trace about a connection
        arguments = ["push", str(folder), repo_id, *(["--private"] if private else [])]
        _print_failure(error, [*arguments, *(["--revision", revision] if revision else [])], folder)


def _files_of(folder: Path) -> Files:
    """Return {path in the repository: file} of a run, without scans whose license is unknown."""
    files = [folder / name for name in FILES if (folder / name).is_file()]
    figures = [path for path in sorted(folder.glob("figures/*.png")) if path != folder / MAPS]
    scans = publishable_scans(folder)
    if not scans and (folder / "examples").is_dir():
        print(NO_SCANS)
    return {path.relative_to(folder).as_posix(): path for path in (*files, *figures, *scans)}


def _digest(files: Files) -> str:
    """Return the SHA-256 of names and contents, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        content = content.read_bytes() if isinstance(content, Path) else content
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _published_metrics(api: HfApi, repo_id: str, head: str) -> dict | None:
    """Return the metrics.json of a commit, None if it has none, {} if it cannot be read."""
    try:
        file = api.hf_hub_download(repo_id, "metrics.json", revision=head)
    except RemoteEntryNotFoundError:  # not EntryNotFoundError, which an unreachable Hub raises, too
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        return {}


def _check_not_worse(ours: dict, published: dict | None) -> None:
    """Raise `PushError` if the published checkpoint is better by validation macro-F1, or cannot be compared."""
    if published is None:
        return
    try:
        is_same_split = SplitIdentity.of(published) == SplitIdentity.of(ours)
        theirs, new = (metrics["validation"]["macro_f1"]["value"] for metrics in (published, ours))
    except (KeyError, TypeError):
        is_same_split = False
    way_out = "Use another name, a new branch (--revision), or --overwrite."
    if not is_same_split:
        raise PushError(
            f"The published checkpoint was measured on another split or other data, so the two cannot be compared. "
            f"{way_out}"
        )
    if theirs > new:
        raise PushError(
            f"The published checkpoint is better: macro-F1 {theirs:.4f} on validation, this one has {new:.4f}. "
            f"{way_out}"
        )


def _print_published(published: Published, repo_id: str) -> None:
    print(f"Published: {published.url}")
    if published.tag:
        print(f"Tag: {published.tag}. To serve it: BRAIN_XAI_CHECKPOINTS={repo_id}@{published.tag} python app.py")


def _print_failure(error: Exception, arguments: list[str], folder: Path | None = None) -> None:
    """Say what failed, where the checkpoint still is, and which command helps, if any."""
    print(error if isinstance(error, TagMissing) else f"Not published: {error}", file=sys.stderr)
    if folder is not None and (folder / WEIGHTS_NAME).is_file():
        print(f"The checkpoint is safe in {folder}.", file=sys.stderr)
    if isinstance(error, TagMissing) and error.command:
        print(f"To add the tag:\n  {error.command}", file=sys.stderr)
    elif not isinstance(error, PushError) or error.can_retry:
        print(f"To try again:\n  {shlex.join(['python', '-m', 'training.publish', *arguments])}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    to_hub = commands.add_parser("push", help="publish a finished checkpoint folder")
    to_hub.add_argument("folder", type=Path)
    to_hub.add_argument("repo_id", metavar="org/name")
    to_hub.add_argument("--revision", help="branch; created if it is missing (default: main)")
    to_hub.add_argument("--overwrite", action="store_true", help="also replace a better checkpoint")
    space = commands.add_parser("space", help="create or update the Space from this repository")
    space.add_argument("repo_id", metavar="org/name")
    for command in (to_hub, space):
        command.add_argument("--private", action="store_true", help="make a new repository private")
    to_package = commands.add_parser("bundle", help="copy a finished checkpoint into the package, without its scans")
    to_package.add_argument("folder", type=Path)
    to_package.add_argument("name", help="its id will be bundled/NAME")
    to_package.add_argument("--official", type=Path, help="run of the same settings on the official split")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one of the three commands; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(arguments)
    try:
        if given.command == "bundle":
            bundle(given.folder, BUNDLED / given.name, given.official)
            print(f"bundled/{given.name} is ready. Update the README: python -m training.results README.md")
        elif given.command == "space":
            _print_published(push_space(given.repo_id, ROOT, private=given.private), given.repo_id)
        else:
            options = {"private": given.private, "revision": given.revision, "overwrite": given.overwrite}
            _print_published(push(given.folder, given.repo_id, **options), given.repo_id)
    except (CheckpointError, PushError) as error:
        if given.command == "bundle":
            print(f"Not bundled: {error}", file=sys.stderr)
        else:
            _print_failure(error, arguments, getattr(given, "folder", None))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
