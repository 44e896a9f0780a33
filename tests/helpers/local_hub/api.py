"""The part of the Hub's HTTP API that publishing and loading checkpoints use, worded as the real Hub does."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from urllib.parse import unquote, urlsplit

import yaml

from tests.helpers.local_hub.store import File, HubError, Repository, Store, large_file, lfs_pointer, regular_file

USER = "tester"
TOKENS = {"hf_write": "write", "hf_read": "read"}
KINDS = {"model": "models", "space": "spaces", "dataset": "datasets"}
LARGE = 10_000_000  # bytes: above, and wherever the first bytes are not text, a file goes to storage


@dataclass(frozen=True)
class Request:
    """One request to the Hub at `endpoint`; header names in lower case."""

    store: Store
    endpoint: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def require_write(self) -> None:
        if not self.token:
            raise HubError(401, "Invalid username or password.")
        if TOKENS[self.token] != "write":
            raise HubError(403, "Forbidden: you must use a write token for this request")

    def url_of(self, repository: Repository) -> str:
        prefix = "" if repository.kind == "models" else f"{repository.kind}/"
        return f"{self.endpoint}/{prefix}{repository.repo_id}"

    def storage_url(self, repository: Repository, sha256: str, name: str = "") -> str:
        # Under another host name, because clients follow redirects within one host. `name` is for patterns of faults.
        storage = self.endpoint.replace("127.0.0.1", "localhost")
        return f"{storage}/storage/{repository.kind}/{repository.repo_id}/{sha256}?filename={name}"


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def refusal(error: HubError) -> Response:
    headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
    return as_json({"error": error.message, **error.details}, error.status, headers)


# method, pattern of the path, whether it writes, function
ROUTES: list[tuple[str, re.Pattern, bool, Callable[..., Response]]] = []
SHORTHANDS = {
    "{repo}": r"(?P<kind>models|spaces|datasets)/(?P<repo_id>\w[\w.-]*/\w[\w.-]*)",
    "{page}": r"(?:(?P<kind>spaces|datasets)/)?(?P<repo_id>\w[\w.-]*/\w[\w.-]*?)",
    "{revision}": "(?P<revision>[^/]+)",
    "{path}": "(?P<path>.+)",
    "{sha256}": "(?P<sha256>[0-9a-f]{64})",
}


def route(method: str, pattern: str, *, write: bool = False) -> Callable:
    """Answer matching requests with the decorated function: it gets the request, the repository and the other parts."""
    for name, expression in SHORTHANDS.items():
        pattern = pattern.replace(name, expression)

    def register(function: Callable[..., Response]) -> Callable[..., Response]:
        ROUTES.append((method, re.compile(pattern), write, function))
        return function

    return register


def answer(request: Request) -> Response:
    """Return the answer of the first route that matches, or a refusal."""
    method = "GET" if request.method == "HEAD" else request.method
    try:
        if request.token and request.token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        for wanted, pattern, write, function in ROUTES:
            match = pattern.fullmatch(request.path)
            if match and method == wanted:
                parts = {name: unquote(part) for name, part in match.groupdict().items() if part}
                if write:
                    request.require_write()
                if "repo_id" in parts:
                    parts["repository"] = _repository(request, parts.pop("kind", "models"), parts.pop("repo_id"))
                return function(request, **parts)
        raise HubError(404, f"The local Hub has no route {request.method} {request.path}")
    except HubError as error:
        return refusal(error)


def _repository(request: Request, kind: str, repo_id: str) -> Repository:
    repository = request.store.find(kind, repo_id)
    if repository is None:  # anonymous clients cannot tell a private repository from a missing one
        raise HubError(404 if request.token else 401, "Repository not found", "RepoNotFound")
    return repository


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Response:
    if not request.token:
        raise HubError(401, "Invalid username or password.")
    rights = TOKENS[request.token]
    auth = {"type": "access_token", "accessToken": {"displayName": rights, "role": rights}}
    return as_json({"type": "user", "id": USER, "name": USER, "fullname": USER, "orgs": [], "auth": auth})


@route("POST", "/api/repos/create", write=True)
def create_repo(request: Request) -> Response:
    asked = request.json
    kind, repo_id = KINDS[asked.get("type") or "model"], f"{asked.get('organization') or USER}/{asked['name']}"
    is_private = asked.get("visibility") == "private" or asked.get("private", False)
    is_new = request.store.create(kind, repo_id, private=is_private, sdk=asked.get("sdk"))
    url = request.url_of(request.store.find(kind, repo_id))
    if not is_new:
        raise HubError(409, f"You already created this {asked.get('type', 'model')} repo", url=url)
    return as_json({"url": url, "name": repo_id})


# Reading


@route("GET", "/api/{repo}(?:/revision/{revision})?")
def info(request: Request, repository: Repository, revision: str = "main") -> Response:
    commit, with_blobs = repository.resolve(revision), "blobs=true" in request.target.lower()
    siblings = [
        {"rfilename": path} | (_sizes(file) | {"blobId": file.oid} if with_blobs else {})
        for path, file in commit.files.items()
    ]
    facts = {"id": repository.repo_id, "sha": commit.sha, "lastModified": commit.date, "siblings": siblings}
    return as_json(facts | repository.settings)


@route("GET", "/api/{repo}/refs")
def refs(request: Request, repository: Repository) -> Response:
    found = repository.refs
    listed = {
        group: [{"name": name, "ref": f"refs/{git}/{name}", "targetCommit": sha} for name, sha in found[group].items()]
        for group, git in (("branches", "heads"), ("tags", "tags"))
    }
    return as_json(listed | {"converts": []})


@route("GET", "/api/{repo}/commits/{revision}")
def commits(request: Request, repository: Repository, revision: str) -> Response:
    history = repository.history(repository.resolve(revision))
    author = [{"user": USER}]
    return as_json([{"id": c.sha, "title": c.title, "message": "", "date": c.date, "authors": author} for c in history])


@route("GET", "/api/{repo}/tree/{revision}")
def tree(request: Request, repository: Repository, revision: str) -> Response:
    files = repository.resolve(revision).files
    return as_json(
        [{"type": "file", "path": path, "oid": file.oid} | _sizes(file, "oid") for path, file in files.items()]
    )


def _sizes(file: File, digest: str = "sha256") -> dict:
    if not file.is_lfs:
        return {"size": file.size}
    pointer = len(lfs_pointer(file.sha256, file.size))
    return {"size": file.size, "lfs": {digest: file.sha256, "size": file.size, "pointerSize": pointer}}


@route("GET", "/{page}/resolve/{revision}/{path}")
def resolve(request: Request, repository: Repository, revision: str, path: str) -> Response:
    commit = repository.resolve(revision)
    file = commit.files.get(path)
    if file is None:  # with the commit, the client remembers that the file is missing
        headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.sha}
        return as_json({"error": "Entry not found"}, 404, headers)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes", "ETag": f'"{file.etag}"'}
    if not file.is_lfs:
        return _part(request, repository.read_object(file.sha256), headers)
    location = request.storage_url(repository, file.sha256, path)
    linked = {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.etag}"', "Location": location}
    return Response(302, b"", headers | linked)


@route("GET", "/storage/{repo}/{sha256}")
def download(request: Request, repository: Repository, sha256: str) -> Response:
    return _part(request, repository.read_object(sha256), {"Accept-Ranges": "bytes", "ETag": f'"{sha256}"'})


def _part(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """Return the content, from the byte on at which an interrupted download resumes."""
    start = request.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0]
    if "range" not in request.headers:
        return Response(200, content, headers)
    headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return Response(206, content[int(start) :], headers)


# Writing


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Response:
    try:
        metadata = yaml.safe_load(request.json["content"].split("---\n")[1])
    except (yaml.YAMLError, IndexError):
        metadata = None
    if isinstance(metadata, dict):
        return as_json({"errors": [], "warnings": []})
    raise HubError(400, "Invalid YAML", errors=[{"message": "Invalid YAML in README.md"}])


@route("POST", "/api/{repo}/preupload/{revision}", write=True)
def preupload(request: Request, repository: Repository, revision: str) -> Response:
    """Say for each file how it is uploaded, and what is there already: the client skips unchanged files."""
    commit = repository.resolve(revision)
    attributes = repository.read_object(commit.files[".gitattributes"].sha256).decode().splitlines()
    patterns = [line.split()[0] for line in attributes if "filter=lfs" in line]
    answers = []
    for file in request.json["files"]:
        path, there = file["path"], commit.files.get(file["path"])
        is_text = b"\0" not in base64.b64decode(file["sample"])
        is_lfs = file["size"] > LARGE or not is_text or any(fnmatch(path.split("/")[-1], glob) for glob in patterns)
        mode = {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
        answers.append(mode | ({"oid": there.etag} if there and there.is_lfs == is_lfs else {}))
    return as_json({"files": answers})


@route("POST", "/{page}.git/info/lfs/objects/batch", write=True)
def lfs_batch(request: Request, repository: Repository) -> Response:
    """Say where to PUT each large file; those that are there already need no upload."""
    verify = f"{request.url_of(repository)}.git/info/lfs/objects/verify"
    objects = []
    for wanted in request.json["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if not repository.has_object(wanted["oid"]):
            upload = {"href": request.storage_url(repository, wanted["oid"])}
            answer |= {"authenticated": True, "actions": {"upload": upload, "verify": {"href": verify}}}
        objects.append(answer)
    return as_json({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})


@route("PUT", "/storage/{repo}/{sha256}")
def upload(request: Request, repository: Repository, sha256: str) -> Response:
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise HubError(400, "The content does not have the SHA-256 that was announced.")
    repository.add_object(request.body)
    return Response(headers={"ETag": f'"{sha256}"'})


@route("POST", "/{page}.git/info/lfs/objects/verify", write=True)
def lfs_verify(request: Request, repository: Repository) -> Response:
    if not repository.has_object(request.json["oid"]):
        raise HubError(404, "The large file has not been uploaded", "EntryNotFound")
    return as_json({})


@route("POST", "/api/{repo}/commit/{revision}", write=True)
def commit(request: Request, repository: Repository, revision: str) -> Response:
    """Make a commit from the lines of the body, one JSON object each: a header first, then one per file."""
    lines = [json.loads(line) for line in request.body.splitlines()]
    header = lines[0]["value"]
    added = dict(_added(repository, line["key"], line["value"]) for line in lines if line["key"] in ("file", "lfsFile"))
    deleted = tuple(line["value"]["path"] for line in lines if line["key"] == "deletedFile")
    made = repository.add_commit(revision, header["summary"], added, deleted, header.get("parentCommit") or "")
    url = f"{request.url_of(repository)}/commit/{made.sha}"
    return as_json({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


def _added(repository: Repository, key: str, value: dict) -> tuple[str, File]:
    if key == "lfsFile":
        if not repository.has_object(value["oid"]):
            raise HubError(400, f"The large file of {value['path']} has not been uploaded.")
        return value["path"], large_file(value["oid"], len(repository.read_object(value["oid"])))
    content = base64.b64decode(value["content"])
    repository.add_object(content)
    return value["path"], regular_file(content)


@route("POST", "/api/{repo}/branch/{revision}", write=True)
def create_branch(request: Request, repository: Repository, revision: str) -> Response:
    repository.add_ref("branches", revision, repository.resolve(request.json.get("startingPoint", "main")).sha)
    return as_json({})


@route("DELETE", "/api/{repo}/branch/{revision}", write=True)
def delete_branch(request: Request, repository: Repository, revision: str) -> Response:
    repository.delete_ref("branches", revision)
    return as_json({})


@route("POST", "/api/{repo}/tag/{revision}", write=True)
def create_tag(request: Request, repository: Repository, revision: str) -> Response:
    repository.add_ref("tags", request.json["tag"], repository.resolve(revision).sha)
    return as_json({})
