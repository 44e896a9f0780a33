"""The repositories of the local Hub, in a folder of plain files: commits never change, branches move, tags stay.

ROOT/models/org/name/ holds repo.json (settings), refs.json (branches and tags), commits/<sha>.json (one snapshot each)
and objects/<sha256> (the content of every file of every commit).
"""

import hashlib
import json
import os
import shutil
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

# What the real Hub puts into a new repository: these files go to the storage of large files.
GIT_ATTRIBUTES = "".join(
    f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in ("bin", "ckpt", "npy", "pt", "pth", "safetensors")
)


class HubError(Exception):
    """A refusal: an HTTP status, a sentence, and the X-Error-Code by which the client chooses its exception."""

    def __init__(self, status: int, message: str, code: str = "", **details: object):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.details = details  # further keys of the JSON body


@dataclass(frozen=True)
class File:
    """A file of a commit: size in bytes, SHA-256 of the content, git's id of what git keeps (content or pointer)."""

    oid: str
    sha256: str
    size: int
    is_lfs: bool

    @property
    def etag(self) -> str:
        """How the Hub identifies the content: SHA-256 of a large file, git's id of any other."""
        return self.sha256 if self.is_lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files of a repository by path; `date` is ISO 8601 in UTC."""

    sha: str
    parent: str | None
    title: str
    date: str
    files: dict[str, File]


def regular_file(content: bytes) -> File:
    return File(_git_id(content), hashlib.sha256(content).hexdigest(), len(content), is_lfs=False)


def large_file(sha256: str, size: int) -> File:
    return File(_git_id(lfs_pointer(sha256, size)), sha256, size, is_lfs=True)


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return what git keeps in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class Repository:
    """One repository; `kind` is "models", "spaces" or "datasets", as in the addresses of the API."""

    def __init__(self, root: Path, kind: str, repo_id: str, lock: threading.RLock):
        self.kind = kind
        self.repo_id = repo_id
        self.folder = root / kind / repo_id
        self._lock = lock

    @property
    def settings(self) -> dict:
        """`private` (bool) and `sdk` (of a Space, else None)."""
        return _read(self.folder / "repo.json")

    @property
    def refs(self) -> dict[str, dict[str, str]]:
        """{"branches": {name: sha}, "tags": {name: sha}}."""
        return _read(self.folder / "refs.json")

    def add_ref(self, group: str, name: str, sha: str) -> None:
        """Add a branch or a tag; refused if the name is taken."""
        with self._lock:
            refs = self.refs
            if name in refs[group]:
                raise HubError(409, f"Reference already exists: {name}")
            refs[group][name] = sha
            _write(self.folder / "refs.json", refs)

    def delete_ref(self, group: str, name: str) -> None:
        with self._lock:
            refs = self.refs
            if refs[group].pop(name, None) is None:
                raise _revision_not_found(name)
            _write(self.folder / "refs.json", refs)

    def resolve(self, revision: str) -> Commit:
        """Return the commit that a branch, a tag or a full sha names."""
        refs = self.refs
        sha = refs["branches"].get(revision) or refs["tags"].get(revision) or revision
        file = self.folder / "commits" / f"{sha}.json"
        if not file.is_file():
            raise _revision_not_found(revision)
        record = _read(file)
        return Commit(**record | {"files": {path: File(**file) for path, file in record["files"].items()}})

    def history(self, commit: Commit) -> list[Commit]:
        """Return the commit and its ancestors, newest first."""
        commits = [commit]
        while commits[-1].parent:
            commits.append(self.resolve(commits[-1].parent))
        return commits

    def add_commit(
        self, branch: str, title: str, added: dict[str, File], deleted: tuple[str, ...] = (), parent: str = ""
    ) -> Commit:
        """Move `branch` to a new snapshot; refused if `parent` is given and no longer the head of the branch."""
        with self._lock:
            refs = self.refs
            head = refs["branches"].get(branch)
            if head is None and refs["branches"]:
                raise _revision_not_found(branch)
            if parent and head != parent:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            before = self.resolve(head).files if head else {}
            files = {path: file for path, file in before.items() if path not in deleted} | added
            record = {"parent": head, "title": title, "date": _now()}
            record["files"] = {path: asdict(file) for path, file in sorted(files.items())}
            sha = hashlib.sha1(json.dumps(record).encode()).hexdigest()
            _write(self.folder / "commits" / f"{sha}.json", {"sha": sha} | record)
            refs["branches"][branch] = sha
            _write(self.folder / "refs.json", refs)
            return self.resolve(sha)

    def has_object(self, sha256: str) -> bool:
        return (self.folder / "objects" / sha256).is_file()

    def read_object(self, sha256: str) -> bytes:
        return (self.folder / "objects" / sha256).read_bytes()

    def add_object(self, content: bytes) -> None:
        _write_bytes(self.folder / "objects" / hashlib.sha256(content).hexdigest(), content)


class Store:
    """All repositories below one folder."""

    def __init__(self, root: Path):
        self.root = root
        self._lock = threading.RLock()

    def find(self, kind: str, repo_id: str) -> Repository | None:
        repository = Repository(self.root, kind, repo_id, self._lock)
        return repository if (repository.folder / "repo.json").is_file() else None

    def create(self, kind: str, repo_id: str, *, private: bool = False, sdk: str | None = None) -> bool:
        """Create a repository with its first commit; returns whether it is new."""
        with self._lock:
            if self.find(kind, repo_id):
                return False
            repository = Repository(self.root, kind, repo_id, self._lock)
            attributes = GIT_ATTRIBUTES.encode()
            repository.add_object(attributes)
            _write(repository.folder / "refs.json", {"branches": {}, "tags": {}})
            repository.add_commit("main", "initial commit", {".gitattributes": regular_file(attributes)})
            _write(repository.folder / "repo.json", {"private": private, "sdk": sdk})  # last: now it exists
            return True

    def delete(self, repository: Repository) -> None:
        with self._lock:
            shutil.rmtree(repository.folder)


def _revision_not_found(revision: str) -> HubError:
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: dict) -> None:
    _write_bytes(path, json.dumps(value, indent=1).encode())


def _write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a killed server leaves nothing half-written behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
