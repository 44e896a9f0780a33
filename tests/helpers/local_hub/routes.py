"""The table of routes, and the way from a request to its answer."""

import re
from collections.abc import Callable
from urllib.parse import unquote

from tests.helpers.local_hub.errors import HubError
from tests.helpers.local_hub.messages import Request, Response, refusal

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
        request.check_token()
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
