"""The routes that write: repositories, commits, large files, branches and tags."""

import base64
import hashlib
import json
from fnmatch import fnmatch

from tests.helpers.local_hub.errors import HubError, entry_not_found
from tests.helpers.local_hub.messages import USER, Request, Response, as_json
from tests.helpers.local_hub.reading import front_matter, stored
from tests.helpers.local_hub.routes import route
from tests.helpers.local_hub.store import Commit, Repository, large_file, regular_file

LARGE = 10_000_000  # bytes: above, and wherever the first bytes are no text, a file goes to storage
KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Response:
    request.require_write()
    asked = request.json
    kind, repo_id = _named(asked)
    is_private = asked.get("visibility") == "private" or asked.get("private", False)
    is_new = request.site.store.create(kind, repo_id, author=USER, private=is_private, sdk=asked.get("sdk"))
    url = request.site.page_url(request.site.store.find(kind, repo_id))
    if not is_new:
        raise HubError(409, f"You already created this {asked.get('type', 'model')} repo", url=url)
    return as_json({"url": url, "name": repo_id})


@route("DELETE", "/api/repos/delete")
def delete_repo(request: Request) -> Response:
    kind, repo_id = _named(request.json)
    request.site.store.delete(request.repository(kind, repo_id, write=True))
    return Response()


def _named(asked: dict) -> tuple[str, str]:
    return KINDS[asked.get("type") or "model"], f"{asked.get('organization') or USER}/{asked['name']}"


@route("PUT", "/api/{repo}/settings")
def change_settings(request: Request, kind: str, repo_id: str) -> Response:
    repository, asked = request.repository(kind, repo_id, write=True), request.json
    if "visibility" in asked:
        repository.change_settings(private=asked["visibility"] == "private")
    if "gated" in asked:
        repository.change_settings(gated=asked["gated"])
    return as_json({})


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Response:
    if front_matter(request.json["content"]):
        return as_json({"errors": [], "warnings": []})
    return as_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})


@route("POST", "/api/{repo}/preupload/{revision}")
def preupload(request: Request, kind: str, repo_id: str, revision: str) -> Response:
    """Say of each file which way it goes, and what is there already: the client leaves unchanged ones out.

    Unlike on the real Hub, a .gitignore keeps nothing out.
    """
    repository = request.repository(kind, repo_id, write=True)
    commit = repository.resolve(revision)
    patterns = _lfs_patterns(repository, commit)
    answers = []
    for file in request.json["files"]:
        path, there = file["path"], commit.files.get(file["path"])
        is_text = b"\0" not in base64.b64decode(file["sample"])
        is_lfs = file["size"] > LARGE or not is_text or any(fnmatch(path.split("/")[-1], glob) for glob in patterns)
        mode = {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
        answers.append(mode | ({"oid": there.etag} if there and there.is_lfs == is_lfs else {}))
    return as_json({"files": answers})


def _lfs_patterns(repository: Repository, commit: Commit) -> list[str]:
    file = commit.files.get(".gitattributes")
    lines = repository.read_object(file.sha256).decode().splitlines() if file else []
    return [line.split()[0] for line in lines if "filter=lfs" in line]


@route("POST", "/{page}.git/info/lfs/objects/batch")
def lfs_batch(request: Request, kind: str, repo_id: str) -> Response:
    """Say where to PUT each large file; those that are there already need no upload."""
    repository = request.repository(kind, repo_id, write=True)
    verify = f"{request.site.page_url(repository)}.git/info/lfs/objects/verify"
    objects = []
    for wanted in request.json["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if not repository.has_object(wanted["oid"]):
            upload = {"href": request.site.storage_url(repository, wanted["oid"])}
            answer |= {"authenticated": True, "actions": {"upload": upload, "verify": {"href": verify}}}
        objects.append(answer)
    return as_json({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})


@route("PUT", "/storage/{repo}/{sha256}")
def upload(request: Request, kind: str, repo_id: str, sha256: str) -> Response:
    repository = stored(request, kind, repo_id)
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise HubError(400, "The content does not have the SHA-256 that was announced.")
    repository.add_object(request.body)
    return Response(headers={"ETag": f'"{sha256}"'})


@route("POST", "/{page}.git/info/lfs/objects/verify")
def lfs_verify(request: Request, kind: str, repo_id: str) -> Response:
    repository, asked = request.repository(kind, repo_id, write=True), request.json
    if not repository.has_object(asked["oid"]) or len(repository.read_object(asked["oid"])) != asked["size"]:
        raise entry_not_found("The large file has not been uploaded")
    return as_json({})


@route("POST", "/api/{repo}/commit/{revision}")
def commit(request: Request, kind: str, repo_id: str, revision: str) -> Response:
    """Make a commit of the lines of the body, a JSON object each: a header first, then one per file."""
    repository = request.repository(kind, repo_id, write=True)
    if request.asks("create_pr"):
        raise HubError(400, "The local Hub knows no pull requests.")
    header, added, deleted = {}, {}, []
    for line in request.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        match item["key"]:
            case "header":
                header = value
            case "file":
                content = base64.b64decode(value["content"])
                repository.add_object(content)
                added[value["path"]] = regular_file(content)
            case "lfsFile":
                if not repository.has_object(value["oid"]):
                    raise HubError(400, f"The large file of {value['path']} has not been uploaded.")
                added[value["path"]] = large_file(value["oid"], len(repository.read_object(value["oid"])))
            case "deletedFile":
                deleted.append(value["path"])
            case "deletedFolder":
                deleted.append(value["path"].rstrip("/") + "/")
    made = repository.add_commit(
        revision,
        title=header["summary"],
        message=header.get("description", ""),
        author=USER,
        added=added,
        deleted=tuple(deleted),
        parent=header.get("parentCommit"),
    )
    url = f"{request.site.page_url(repository)}/commit/{made.sha}"
    return as_json({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


@route("POST", "/api/{repo}/branch/{revision}")
def create_branch(request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repository = request.repository(kind, repo_id, write=True)
    start = repository.resolve(request.json.get("startingPoint", "main"))
    repository.add_ref("branches", revision, start.sha)
    return as_json({})


@route("DELETE", "/api/{repo}/branch/{revision}")
def delete_branch(request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repository = request.repository(kind, repo_id, write=True)
    if revision == "main":
        raise HubError(403, "The main branch cannot be deleted.")
    repository.delete_ref("branches", revision)
    return as_json({})


@route("POST", "/api/{repo}/tag/{revision}")
def create_tag(request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repository = request.repository(kind, repo_id, write=True)
    repository.add_ref("tags", request.json["tag"], repository.resolve(revision).sha)
    return as_json({})


@route("DELETE", "/api/{repo}/tag/{revision}")
def delete_tag(request: Request, kind: str, repo_id: str, revision: str) -> Response:
    request.repository(kind, repo_id, write=True).delete_ref("tags", revision)
    return as_json({})
