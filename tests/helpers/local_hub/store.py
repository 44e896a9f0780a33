"""Repositories in a folder of plain files: commits never change, branches move, tags stay.

ROOT/models/org/name/ holds `repo.json` (settings), `refs.json` (branches and tags), `commits/<sha>.json` (a snapshot
each) and `objects/<sha256>` (the content of every file of every commit).
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

from tests.helpers.local_hub.errors import HubError, entry_not_found, head_has_moved, revision_not_found

# What the real Hub puts into a new repository: these go to the storage of large files.
GIT_ATTRIBUTES = "".join(
    f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n"
    for ending in ("arrow", "bin", "ckpt", "gz", "npy", "npz", "onnx", "parquet", "pt", "pth", "safetensors", "zip")
)


@dataclass(frozen=True)
class File:
    """A file of a commit: size in bytes, SHA-256 of the content, git's id of what git keeps (content or pointer)."""

    oid: str
    sha256: str
    size: int
    is_lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub calls the content: SHA-256 of a large file, git's id of any other."""
        return self.sha256 if self.is_lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files of a repository by path; `date` is ISO 8601 in UTC."""

    sha: str
    parent: str | None
    title: str
    message: str
    author: str
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
    """One repository; `kind` is "models", "datasets" or "spaces", as in the addresses of the API."""

    def __init__(self, root: Path, kind: str, repo_id: str, lock: threading.RLock):
        self.kind = kind
        self.repo_id = repo_id
        self.folder = root / kind / repo_id
        self._lock = lock

    @property
    def settings(self) -> dict:
        """`private` (bool), `gated` (False, "auto" or "manual"), `sdk` (of a Space, else None), `created` (date)."""
        return _read(self.folder / "repo.json")

    def change_settings(self, **changes: object) -> None:
        with self._lock:
            _write(self.folder / "repo.json", self.settings | changes)

    @property
    def refs(self) -> dict[str, dict[str, str]]:
        """{"branches": {name: sha}, "tags": {name: sha}}."""
        return _read(self.folder / "refs.json")

    def add_ref(self, group: str, name: str, sha: str) -> None:
        """Add a branch or a tag; refused where the name is taken."""
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
                raise revision_not_found(name)
            _write(self.folder / "refs.json", refs)

    def resolve(self, revision: str) -> Commit:
        """Return the commit that a branch, a tag or a sha (whole, or its first 7 digits or more) names."""
        refs = self.refs
        sha = refs["branches"].get(revision) or refs["tags"].get(revision)
        if sha is None and 7 <= len(revision) <= 40 and revision.isalnum():
            sha = next((path.stem for path in (self.folder / "commits").glob(f"{revision}*.json")), None)
        if sha is None:
            raise revision_not_found(revision)
        return self.commit(sha)

    def commit(self, sha: str) -> Commit:
        kept = _read(self.folder / "commits" / f"{sha}.json")
        return Commit(**kept | {"files": {path: File(**file) for path, file in kept["files"].items()}})

    def history(self, commit: Commit) -> list[Commit]:
        """Return the commit and all before it, newest first."""
        commits = [commit]
        while commits[-1].parent:
            commits.append(self.commit(commits[-1].parent))
        return commits

    def add_commit(
        self,
        branch: str,
        *,
        title: str,
        message: str = "",
        author: str,
        added: dict[str, File],
        deleted: tuple[str, ...] = (),
        parent: str | None = None,
    ) -> Commit:
        """Move `branch` to a new snapshot; `deleted` are paths, of folders with a final slash.

        Refused if `parent` is given and no longer the head, or if there is nothing to delete at a path.
        """
        with self._lock:
            refs = self.refs
            head = refs["branches"].get(branch)
            if head is None and refs["branches"]:
                raise revision_not_found(branch)
            if parent is not None and not (head or "").startswith(parent):
                raise head_has_moved()
            files = self.commit(head).files if head else {}
            for path in deleted:
                kept = {p: file for p, file in files.items() if p != path and not _is_inside(p, path)}
                if len(kept) == len(files):
                    raise entry_not_found(f"A file with this name doesn't exist: {path}")
                files = kept
            snapshot = {
                "parent": head, "title": title, "message": message, "author": author, "date": now(),
                "files": {path: asdict(file) for path, file in sorted((files | added).items())},
            }  # fmt: skip
            sha = hashlib.sha1(json.dumps(snapshot).encode()).hexdigest()
            _write(self.folder / "commits" / f"{sha}.json", {"sha": sha} | snapshot)
            refs["branches"][branch] = sha
            _write(self.folder / "refs.json", refs)
            return self.commit(sha)

    def add_file(self, branch: str, path: str, content: bytes) -> Commit:
        """Commit one small file, as somebody else who pushes in the meantime."""
        self.add_object(content)
        return self.add_commit(branch, title=f"Add {path}", author="somebody", added={path: regular_file(content)})

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

    def create(self, kind: str, repo_id: str, *, author: str, private: bool = False, sdk: str | None = None) -> bool:
        """Make a repository with its first commit; returns whether it is new."""
        with self._lock:
            if self.find(kind, repo_id):
                return False
            repository = Repository(self.root, kind, repo_id, self._lock)
            attributes = GIT_ATTRIBUTES.encode()
            repository.add_object(attributes)
            _write(repository.folder / "refs.json", {"branches": {}, "tags": {}})
            repository.add_commit(
                "main", title="initial commit", author=author, added={".gitattributes": regular_file(attributes)}
            )
            settings = {"private": private, "gated": False, "sdk": sdk, "created": now()}
            _write(repository.folder / "repo.json", settings)  # last: a repository is there once this is
            return True

    def delete(self, repository: Repository) -> None:
        with self._lock:
            shutil.rmtree(repository.folder)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_inside(path: str, folder: str) -> bool:
    return folder.endswith("/") and path.startswith(folder)


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: dict) -> None:
    _write_bytes(path, json.dumps(value, indent=1).encode())


def _write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a killed server leaves nothing half-written behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
