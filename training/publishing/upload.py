"""Publish files on the Hub as one commit on top of a checked head, and tag it."""

import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

RETRY_DELAYS = (1, 2, 4, 8)  # seconds
TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
MAX_CONFLICTS = 3  # other commits that may land between our check and our commit
# Everything the client raises.
CLIENT_ERRORS = (HTTPError, OSError, RuntimeError, ValueError)
NO_TOKEN = (
    "There is no token for the Hub. Create one with write access at https://huggingface.co/settings/tokens, then run "
    "`hf auth login`, or set HF_TOKEN."
)
UNKNOWN_TOKEN = "The Hub does not know this token. Log in again with `hf auth login`, or set HF_TOKEN."
OFFLINE = "HF_HUB_OFFLINE is set, so the Hub cannot be reached. Unset it."

Result = TypeVar("Result")
Files = Mapping[str, Path | bytes]


class PushError(Exception):
    """Nothing was published; the message says why, and `can_retry` whether the same command may succeed later."""

    def __init__(self, message: str, *, can_retry: bool = False):
        super().__init__(message)
        self.can_retry = can_retry


class TagMissing(PushError):
    """The commit was published without its tag; `command` adds the tag, None where another name is needed."""

    def __init__(self, message: str, command: str | None):
        super().__init__(message, can_retry=True)
        self.command = command


@dataclass(frozen=True)
class Upload:
    """The content of one commit on a branch.

    Attributes:
        repo_id: org/name.
        repo_type: "model" or "space".
        files: Returns {path in the repository: file or content}, given the name of the tag.
        delete_patterns: Remote files that match one of these and are not uploaded are deleted.
        message: Commit message.
        private: Whether the repository must be private.
        branch: Created from main if it is missing.
        tag: Preferred name of the tag; "" for no tag.
    """

    repo_id: str
    repo_type: str
    files: Callable[[str], Files]
    delete_patterns: Collection[str]
    message: str
    private: bool = False
    branch: str = "main"
    tag: str = ""

    @property
    def repository(self) -> dict[str, str]:
        """Return the repository as keyword arguments of `HfApi`."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}


@dataclass(frozen=True)
class Published:
    """A commit on the Hub: its `url`, its sha as `revision`, and its `tag` ("" for none)."""

    url: str
    revision: str
    tag: str = ""


# Given the client and the sha of the head; raises `PushError` if nothing may be committed on top of it.
Check = Callable[[HfApi, str], None]


def check_name(repo_id: str) -> None:
    """Raise `PushError` unless the name is org/name, without asking the Hub."""
    with suppress(HFValidationError):
        validate_repo_id(repo_id)
        if "/" in repo_id:
            return
    raise PushError(f"{repo_id!r} is not the name of a repository: it must be org/name.")


def check_token() -> None:
    """Raise `PushError` if nothing could be published now: offline, no token, an unknown one or a read-only one."""
    try:
        user = _client().whoami()
    except CLIENT_ERRORS as error:
        raise _as_push_error(error, "the Hub") from error
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PushError("The token is read-only. Create one with write access.")


def publish(upload: Upload, check: Check = lambda api, head: None) -> Published:
    """Create the repository if it is missing, commit and tag.

    Args:
        upload: What to commit.
        check: Called with the client and the head that the commit goes on top of, unless the branch is new.

    Raises:
        PushError: Nothing was published.
        TagMissing: The commit is on the Hub, its tag is not.
    """
    api = _client()
    sdk = {"space_sdk": "gradio"} if upload.repo_type == "space" else {}
    try:
        _with_retries(lambda: api.create_repo(**upload.repository, private=upload.private, exist_ok=True, **sdk))
        commit, tag = _Push(api, upload, check).commit()
    except CLIENT_ERRORS as error:
        raise _as_push_error(error, upload.repo_id) from error
    if tag:
        _add_tag(api, upload, tag, commit)
    return Published(commit.commit_url, commit.oid, tag)


class _Push:
    """One commit. A missing branch is created for it, and removed again if the commit fails."""

    def __init__(self, api: HfApi, upload: Upload, check: Check):
        self.api, self.upload, self.check = api, upload, check
        self.created_at: str | None = None  # the commit that this push created its branch at

    def commit(self) -> tuple[CommitInfo, str]:
        """Return the commit and the name for its tag; check and try again if another commit lands first."""
        try:
            for _ in range(MAX_CONFLICTS):
                try:
                    return self._try_commit()
                except HfHubHTTPError as error:
                    if error.response.status_code != 412:  # the head is not the one that was checked
                        raise
            raise PushError(f"Other commits keep landing in {self.upload.repo_id}. Try again later.", can_retry=True)
        except BaseException:
            self._remove_empty_branch()
            raise

    def _try_commit(self) -> tuple[CommitInfo, str]:
        api, upload = self.api, self.upload
        branches, tags = _with_retries(lambda: _refs(api, upload))
        head = _with_retries(lambda: api.repo_info(**upload.repository, revision=branches.get(upload.branch, "main")))
        if upload.private and not head.private:
            raise PushError(f"{upload.repo_id} is public. Make it private in its settings, or leave out --private.")
        if upload.branch in branches and head.sha != self.created_at:
            _with_retries(lambda: self.check(api, head.sha))
        tag = _free_tag(upload.tag, tags, head.sha)
        files = upload.files(tag)
        there = filter_repo_objects(
            (file.rfilename for file in head.siblings or []), allow_patterns=[*upload.delete_patterns]
        )
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in there if name not in files]
        if upload.branch not in branches:
            self.created_at = head.sha
            branch = {"branch": upload.branch, "revision": head.sha, "exist_ok": True}  # a lost answer is no failure
            _with_retries(lambda: api.create_branch(**upload.repository, **branch))
        # Not `upload_folder`: with hf_xet it splits a commit that the Hub refuses into several smaller ones.
        commit = _with_retries(
            lambda: api.create_commit(
                **upload.repository,
                operations=operations,
                commit_message=upload.message,
                revision=upload.branch,
                parent_commit=head.sha,
            )
        )
        return commit, tag

    def _remove_empty_branch(self) -> None:
        if self.created_at is not None:
            with suppress(*CLIENT_ERRORS):
                if _refs(self.api, self.upload)[0].get(self.upload.branch) == self.created_at:
                    self.api.delete_branch(**self.upload.repository, branch=self.upload.branch)


def _free_tag(tag: str, tags: Mapping[str, str], head: str) -> str:
    """Return the first of tag, tag-2, tag-3 and so on that is free or already names the head."""
    names = (f"{tag}-{number}" if number > 1 else tag for number in count(1))
    return next(name for name in names if tags.get(name, head) == head)


def _add_tag(api: HfApi, upload: Upload, tag: str, commit: CommitInfo) -> None:
    """Tag a commit; raises `TagMissing` unless the tag then names it."""

    def look_or_create() -> None:
        # Some servers answer 500 for a tag that exists, so look first.
        if tag not in _refs(api, upload)[1]:
            api.create_tag(**upload.repository, tag=tag, revision=commit.oid, exist_ok=True)

    command = f"hf repos tag create {upload.repo_id} {tag} --revision {commit.oid}"
    try:
        _with_retries(look_or_create)
        target = _with_retries(lambda: _refs(api, upload))[1].get(tag)
    except CLIENT_ERRORS as error:
        reason = str(_as_push_error(error, upload.repo_id))
    else:
        if target == commit.oid:
            return
        reason, command = f"the tag {tag} names the commit {target}.", None
    raise TagMissing(f"{commit.commit_url} is on the Hub, but its tag {tag} is missing: {reason}", command)


def _client() -> HfApi:
    if constants.is_offline_mode():
        raise PushError(OFFLINE, can_retry=True)
    token = get_token()
    if token is None:
        raise PushError(NO_TOKEN, can_retry=True)
    return HfApi(token=token)


def _refs(api: HfApi, upload: Upload) -> tuple[dict[str, str], dict[str, str]]:
    """Return {branch: sha} and {tag: sha}."""
    refs = api.list_repo_refs(**upload.repository)
    branches, tags = ({ref.name: ref.target_commit for ref in group} for group in (refs.branches, refs.tags))
    return branches, tags


def _with_retries(step: Callable[[], Result]) -> Result:
    """Return what a step returns; repeat it while the connection or the Hub fails temporarily."""
    for delay in RETRY_DELAYS:
        try:
            return step()
        except CLIENT_ERRORS as error:
            if not _is_transient(_root(error)):
                raise
            print(f"The Hub did not answer ({_reason(_root(error))}). Next try in {delay} s.", file=sys.stderr)
        time.sleep(delay)
    return step()


def _root(error: BaseException) -> BaseException:
    """Unwrap an error: the client wraps failed uploads in RuntimeError, failed downloads in "not in the cache"."""
    while isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return _status(error) in TRANSIENT_STATUSES
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError))


def _reason(error: BaseException) -> str:
    """Name an error: its type, or the server's status and, if it sent any, its own words."""
    if not isinstance(error, HfHubHTTPError):
        return type(error).__name__
    return f"status {_status(error)}" + (f": {error.server_message}" if error.server_message else "")


def _as_push_error(error: BaseException, repo_id: str) -> PushError:
    """Return what the client raised as one sentence for the user."""
    error = _root(error)
    if _status(error) == 401:
        return PushError(UNKNOWN_TOKEN, can_retry=True)
    if _status(error) == 403:
        return PushError(f"The token may not write to {repo_id}. Use one with write access to it.", can_retry=True)
    if _is_transient(error):
        return PushError(f"The Hub is unreachable or temporarily unavailable ({_reason(error)}).", can_retry=True)
    if _status(error):
        return PushError(f"The Hub refused the request ({_reason(error)}).")
    return PushError(f"The push failed ({_reason(error)}): {' '.join(str(error).split())}")
