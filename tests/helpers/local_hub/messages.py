"""A request as the routes see it, what they know of the server, and the answer they give."""

import hashlib
import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.helpers.local_hub.errors import (
    HubError,
    bad_token,
    gated,
    login_required,
    repo_not_found,
    write_token_required,
)
from tests.helpers.local_hub.store import Repository, Store

USER = "tester"


@dataclass(frozen=True)
class Site:
    """What the routes need to know of the server.

    `tokens` maps each token to its rights, "read" or "write". `endpoint` is the address clients know; `storage` is
    another name of the same server, so that they take it for another host, as the storage of the real Hub is.
    """

    store: Store
    tokens: dict[str, str]
    secret: str
    endpoint: str
    storage: str

    def signature(self, path: str) -> str:
        return hashlib.sha256(f"{self.secret}{path}".encode()).hexdigest()

    def storage_url(self, repository: Repository, sha256: str, filename: str = "") -> str:
        """Return the address of an object, signed: storage asks for no token."""
        path = f"/storage/{repository.kind}/{repository.repo_id}/{sha256}"
        name = {"filename": filename} if filename else {}  # for people, and for the patterns of faults
        return f"{self.storage}{path}?{urlencode(name | {'signature': self.signature(path)})}"

    def page_url(self, repository: Repository) -> str:
        prefix = "" if repository.kind == "models" else f"{repository.kind}/"
        return f"{self.endpoint}/{prefix}{repository.repo_id}"


@dataclass(frozen=True)
class Request:
    """One request; header names in lower case."""

    site: Site
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    @property
    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())

    def asks(self, name: str) -> bool:
        """Return whether a flag of the query is set."""
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")

    @property
    def json(self) -> dict:
        try:
            return json.loads(self.body)
        except ValueError:
            raise HubError(400, "The body is not JSON.") from None

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def rights(self) -> str | None:
        """The rights of the token, None without one."""
        return self.site.tokens.get(self.token)

    def check_token(self) -> None:
        """Refuse a wrong token, even where none is needed."""
        if self.token and self.rights is None:
            raise bad_token()

    def require_write(self) -> None:
        if self.rights is None:
            raise login_required()
        if self.rights != "write":
            raise write_token_required()

    def repository(self, kind: str, repo_id: str, *, write: bool = False, content: bool = False) -> Repository:
        """Return the repository if this request may read it, its `content` if gated, or `write` to it."""
        repository = self.site.store.find(kind, repo_id)
        is_anonymous = self.rights is None
        if repository is None or (repository.settings["private"] and is_anonymous):
            raise repo_not_found(is_anonymous)
        if write:
            self.require_write()
        if content and repository.settings["gated"] and self.rights != "write":
            raise gated(is_anonymous)
        return repository


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(value, default=str).encode()  # a card may hold dates
    return Response(status, body, {"Content-Type": "application/json", **(headers or {})})


def refusal(error: HubError) -> Response:
    headers = {"X-Error-Message": error.message}
    if error.code:
        headers["X-Error-Code"] = error.code
    return as_json({"error": error.message, **error.details}, error.status, headers)
