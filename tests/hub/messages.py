"""A request as the routes see it, the answer they give, and the table of routes."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tests.hub.errors import HubError, bad_token, gated, login_required, repo_not_found, write_token_required
from tests.hub.store import Repository, Store

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
        return f"{self.storage}{path}?{urlencode({'filename': filename, 'signature': self.signature(path)})}"

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
    def rights(self) -> str | None:
        """ "read" or "write", None without a token."""
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.site.tokens:
            raise bad_token()
        return self.site.tokens.get(token)

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


ROUTES: list[tuple[str, re.Pattern, Callable[..., Response]]] = []
_SHORTHANDS = {
    "{repo}": r"(?P<kind>models|datasets|spaces)/(?P<repo_id>\w[\w.-]*/\w[\w.-]*)",
    "{page}": r"(?:(?P<kind>datasets|spaces)/)?(?P<repo_id>\w[\w.-]*/\w[\w.-]*?)",
    "{revision}": "(?P<revision>[^/]+)",
    "{path}": "(?P<path>.+)",
    "{sha256}": "(?P<sha256>[0-9a-f]{64})",
}


def route(method: str, pattern: str) -> Callable:
    """Answer requests of this method and path with the decorated function, which gets the named parts, unquoted."""
    for name, expression in _SHORTHANDS.items():
        pattern = pattern.replace(name, expression)

    def register(function: Callable[..., Response]) -> Callable[..., Response]:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


def answer(request: Request) -> Response:
    """Find the route of a request and return its answer, or the refusal."""
    try:
        request.rights  # noqa: B018  a wrong token is refused everywhere, on public repositories too
        for method, pattern, function in ROUTES:
            match = pattern.fullmatch(request.path)
            # Who may GET may ask for the headers alone.
            if match and method == ("GET" if request.method == "HEAD" else request.method):
                parts = {name: unquote(part) for name, part in match.groupdict().items() if part}
                if "repo_id" in parts:
                    parts.setdefault("kind", "models")
                return function(request, **parts)
        raise HubError(404, f"The local Hub has no route {request.method} {request.path}")
    except HubError as error:
        return refusal(error)
