"""Refusals, worded and coded as the real Hub does, so that huggingface_hub raises what it raises there."""


class HubError(Exception):
    """A request the Hub refuses: HTTP status, a sentence, and the X-Error-Code the client picks its exception by."""

    def __init__(self, status: int, message: str, code: str | None = None, **details: object):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.details = details  # further keys of the JSON body


def bad_token() -> HubError:
    return HubError(401, "Invalid credentials in Authorization header")


def login_required() -> HubError:
    return HubError(401, "Invalid username or password.")


def write_token_required() -> HubError:
    return HubError(403, "Forbidden: you must use a write token for this request")


def repo_not_found(is_anonymous: bool) -> HubError:
    # Who has not logged in cannot tell a private repository from a missing one.
    return HubError(401 if is_anonymous else 404, "Repository not found", "RepoNotFound")


def gated(is_anonymous: bool) -> HubError:
    return HubError(401 if is_anonymous else 403, "Access to this repository is restricted.", "GatedRepo")


def revision_not_found(revision: str) -> HubError:
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str = "Entry not found") -> HubError:
    return HubError(404, message, "EntryNotFound")


def head_has_moved() -> HubError:
    return HubError(412, "A commit has happened since. Please refresh and try again.")
