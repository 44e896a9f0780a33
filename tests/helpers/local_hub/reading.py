"""The routes that read: who am I, what is in a repository, and its files."""

from urllib.parse import quote

import yaml

from tests.helpers.local_hub.errors import HubError, entry_not_found, login_required
from tests.helpers.local_hub.messages import USER, Request, Response, as_json
from tests.helpers.local_hub.routes import route
from tests.helpers.local_hub.store import Commit, File, Repository, lfs_pointer

PAGE, PAGE_WITH_COMMITS = 1000, 50


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Response:
    if request.rights is None:
        raise login_required()
    token = {"displayName": request.rights, "role": request.rights}
    auth = {"type": "access_token", "accessToken": token}
    return as_json({"type": "user", "id": USER, "name": USER, "fullname": USER.title(), "orgs": [], "auth": auth})


@route("GET", "/api/{repo}(?:/revision/{revision})?")
def info(request: Request, kind: str, repo_id: str, revision: str = "main") -> Response:
    repository = request.repository(kind, repo_id)
    commit, settings = repository.resolve(revision), repository.settings
    card = read_card(repository, commit)
    facts = {
        "id": repo_id,
        "author": repo_id.split("/")[0],
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": settings["created"],
        "private": settings["private"],
        "gated": settings["gated"],
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": _tags(card),
        "siblings": [_sibling(path, file, request.asks("blobs")) for path, file in commit.files.items()],
        "cardData": card or None,
    }
    if kind == "models":
        facts |= {"modelId": repo_id} | {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    if kind == "spaces":
        facts["sdk"] = settings["sdk"]
    wanted = request.query.get("expand")
    return as_json({key: facts[key] for key in ["id", *wanted] if key in facts} if wanted else facts)


def read_card(repository: Repository, commit: Commit) -> dict:
    """Return the front matter of README.md, {} where there is none."""
    file = commit.files.get("README.md")
    return front_matter(repository.read_object(file.sha256).decode()) if file else {}


def front_matter(text: str) -> dict:
    """Return the YAML between the `---` lines at the top; a HubError 400 if it is no mapping."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        card = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise HubError(400, "Invalid YAML", errors=[{"message": f"Invalid YAML in README.md: {error}"}]) from error
    if not isinstance(card, dict):
        raise HubError(400, "Invalid YAML", errors=[{"message": "The metadata of README.md is no mapping."}])
    return card


def _tags(card: dict) -> list[str]:
    named = [card[key] for key in ("library_name", "pipeline_tag") if key in card]
    licence = [f"license:{card['license']}"] if "license" in card else []
    return [*named, *card.get("tags", []), *licence]


def _sibling(path: str, file: File, with_blobs: bool) -> dict:
    if not with_blobs:
        return {"rfilename": path}
    lfs = {"lfs": {"sha256": file.sha256} | _lfs_sizes(file)} if file.is_lfs else {}
    return {"rfilename": path, "size": file.size, "blobId": file.oid} | lfs


def _lfs_sizes(file: File) -> dict:
    return {"size": file.size, "pointerSize": len(lfs_pointer(file.sha256, file.size))}


@route("GET", "/api/{repo}/refs")
def refs(request: Request, kind: str, repo_id: str) -> Response:
    found = request.repository(kind, repo_id).refs
    listed = {
        group: [{"name": name, "ref": f"refs/{git}/{name}", "targetCommit": sha} for name, sha in found[group].items()]
        for group, git in (("branches", "heads"), ("tags", "tags"))
    }
    return as_json(listed | {"converts": [], "pullRequests": []})


@route("GET", "/api/{repo}/commits/{revision}")
def commits(request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repository = request.repository(kind, repo_id)
    listed = [
        {
            "id": commit.sha,
            "title": commit.title,
            "message": commit.message,
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        for commit in repository.history(repository.resolve(revision))
    ]
    return _page(request, listed, PAGE_WITH_COMMITS)


@route("GET", "/api/{repo}/tree/{revision}(?:/{path})?")
def tree(request: Request, kind: str, repo_id: str, revision: str, path: str = "") -> Response:
    repository = request.repository(kind, repo_id, content=True)
    commit = repository.resolve(revision)
    folder = f"{path.rstrip('/')}/" if path else ""
    inside = [entry for entry in _entries(commit) if entry.startswith(folder) and entry != folder]
    if folder and not inside:
        raise entry_not_found(f"{path} does not exist on {revision}")
    if not request.asks("recursive"):
        inside = [entry for entry in inside if "/" not in entry[len(folder) :].rstrip("/")]
    expand = request.asks("expand")
    listed = [_described(repository, commit, entry, expand) for entry in inside]
    return _page(request, listed, PAGE_WITH_COMMITS if expand else PAGE)


@route("POST", "/api/{repo}/paths-info/{revision}")
def paths_info(request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repository = request.repository(kind, repo_id, content=True)
    commit, form = repository.resolve(revision), request.form
    asked = {path.rstrip("/") for path in form.get("paths", [])}
    expand = form.get("expand", ["false"])[0].lower() == "true"
    found = [entry for entry in _entries(commit) if entry.rstrip("/") in asked]
    return as_json([_described(repository, commit, entry, expand) for entry in found])


def _entries(commit: Commit) -> list[str]:
    """Return the paths of all files, and those of all folders with a final slash."""
    folders = {path[: end + 1] for path in commit.files for end, letter in enumerate(path) if letter == "/"}
    return sorted({*commit.files, *folders})


def _described(repository: Repository, commit: Commit, entry: str, expand: bool) -> dict:
    path = entry.rstrip("/")
    if path != entry:
        # Nobody compares the ids of folders: that of the commit will do.
        described = {"type": "directory", "oid": commit.sha, "size": 0, "path": path}
    else:
        file = commit.files[path]
        described = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
        if file.is_lfs:
            described["lfs"] = {"oid": file.sha256} | _lfs_sizes(file)
    if expand:
        last = _last_change(repository, commit, entry)
        described["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return described


def _last_change(repository: Repository, commit: Commit, entry: str) -> Commit:
    """Return the commit that made a file, or what is in a folder, what it is."""

    def content(at: Commit) -> dict:
        return {
            path: file
            for path, file in at.files.items()
            if path == entry or (entry.endswith("/") and path.startswith(entry))
        }

    last = commit
    for older in repository.history(commit):
        if content(older) != content(commit):
            break
        last = older
    return last


def _page(request: Request, listed: list[dict], length: int) -> Response:
    """Return the entries from the query's `cursor` on, with a link to the next ones."""
    start = int(request.query.get("cursor", ["0"])[0])
    end = start + length
    if end >= len(listed):
        return as_json(listed[start:end])
    kept = "".join(f"{name}={quote(value)}&" for name, (value, *_) in request.query.items() if name != "cursor")
    link = f'<{request.site.endpoint}{request.path}?{kept}cursor={end}>; rel="next"'
    return as_json(listed[start:end], headers={"Link": link})


@route("GET", "/{page}/resolve/{revision}/{path}")
def resolve(request: Request, kind: str, repo_id: str, revision: str, path: str) -> Response:
    repository = request.repository(kind, repo_id, content=True)
    commit = repository.resolve(revision)
    file = commit.files.get(path)
    if file is None:
        error = entry_not_found()
        # With the commit, the client remembers that the file is missing.
        return as_json({"error": error.message}, 404, {"X-Error-Code": error.code, "X-Repo-Commit": commit.sha})
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes", "ETag": f'"{file.etag}"'}
    if not file.is_lfs:
        return _part(request, repository.read_object(file.sha256), headers)
    headers |= {
        "X-Linked-Size": str(file.size),
        "X-Linked-ETag": f'"{file.etag}"',
        "Location": request.site.storage_url(repository, file.sha256, filename=path),
    }
    return Response(302, b"", headers)


@route("GET", "/storage/{repo}/{sha256}")
def download(request: Request, kind: str, repo_id: str, sha256: str) -> Response:
    repository = stored(request, kind, repo_id)
    if not repository.has_object(sha256):
        raise entry_not_found()
    return _part(request, repository.read_object(sha256), {"Accept-Ranges": "bytes", "ETag": f'"{sha256}"'})


def stored(request: Request, kind: str, repo_id: str) -> Repository:
    """Return the repository of a request to storage, where a signed address stands for the token."""
    repository = request.site.store.find(kind, repo_id)
    if repository is None or request.query.get("signature") != [request.site.signature(request.path)]:
        raise HubError(403, "AccessDenied")
    return repository


def _part(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """Return the content, or the one range of bytes the request asks for."""
    headers = headers | {"Content-Type": "application/octet-stream"}
    wanted = request.headers.get("range", "").removeprefix("bytes=")
    if not wanted or "," in wanted:
        return Response(200, content, headers)
    first, last = wanted.split("-")
    start = int(first) if first else max(0, len(content) - int(last))
    end = min(int(last), len(content) - 1) if first and last else len(content) - 1
    if start > end:
        return Response(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
    return Response(206, content[start : end + 1], headers)
