"""What the Space is made of: the files it needs, and a front matter that the Hub understands."""

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import SpaceHardware

FILES = ("app.py", "requirements.txt", "README.md", "LICENSE")
PACKAGE = "brain_xai"
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
MAX_DESCRIPTION = 60
# https://huggingface.co/docs/hub/spaces-config-reference; `license` is that of all kinds of repositories.
TEXTS = (
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "python_version", "sdk_version", "suggested_hardware"),
    *("suggested_storage", "app_file", "app_build_command", "base_path", "header", "short_description", "thumbnail"),
    *("hf_oauth_authorized_org", "startup_duration_timeout", "license"),
)
SWITCHES = ("fullWidth", "pinned", "hf_oauth", "disable_embedding")
NUMBERS = ("app_port", "hf_oauth_expiration_minutes")
LISTS = ("models", "datasets", "tags", "hf_oauth_scopes", "preload_from_hub")
KINDS: dict[str, type] = {
    **dict.fromkeys(TEXTS, str),
    **dict.fromkeys(SWITCHES, bool),
    **dict.fromkeys(NUMBERS, int),
    **dict.fromkeys(LISTS, list),
    "custom_headers": dict,
}
NEEDED = ("title", "sdk", "sdk_version", "python_version", "app_file", "license")


class SpaceError(ValueError):
    """The Space would not start or look as meant; the message names every fault."""


def space_files(root: Path) -> dict[str, Path]:
    """Return {path in the Space: file} of the repository in `root`: the app, its package and its papers."""
    package = (path for path in sorted((root / PACKAGE).rglob("*")) if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(root).as_posix(): path for path in (*(root / name for name in FILES), *package)}


def check_front_matter(readme: str, root: Path) -> None:
    """Check the front matter of a Space's README against the documented keys; raises `SpaceError` with all faults."""
    start, _, rest = readme.partition("---\n")
    block, end, _ = rest.partition("\n---\n")
    if start or not end:
        raise SpaceError("README.md does not begin with a front matter between two lines of ---.")
    try:
        given = yaml.safe_load(block)
    except yaml.YAMLError as error:
        raise SpaceError(f"The front matter of README.md is no YAML: {error}") from error
    if not isinstance(given, dict):
        raise SpaceError("The front matter of README.md holds no keys.")
    faults = _faults(given, root)
    if faults:
        raise SpaceError("The front matter of README.md does not fit a Space: " + "; ".join(faults) + ".")


def _faults(given: dict[str, Any], root: Path) -> list[str]:
    faults = [f"{key} is missing" for key in NEEDED if key not in given]
    faults += [f"{key} is no documented key" for key in given if key not in KINDS]
    for key, kind in KINDS.items():
        if key in given and not isinstance(given[key], kind):
            faults.append(f"{key} must be of type {kind.__name__}, with quotes if need be")
    if faults:
        return faults
    patterns = {"python_version": r"3\.\d+(\.\d+)?", "sdk_version": r"\d+\.\d+\.\d+"}
    choices = {
        "sdk": ("gradio",),
        "colorFrom": COLOURS,
        "colorTo": COLOURS,
        "suggested_hardware": tuple(hardware.value for hardware in SpaceHardware),
        "suggested_storage": ("small", "medium", "large"),
        "header": ("mini", "default"),
    }
    faults += [f"{key} is {given[key]}" for key, form in patterns.items() if not re.fullmatch(form, given[key])]
    for key, allowed in choices.items():
        if given.get(key, allowed[0]) not in allowed:
            faults.append(f"{key} must be one of: {', '.join(allowed)}")
    if len(given.get("short_description", "")) > MAX_DESCRIPTION:
        faults.append(f"short_description has more than {MAX_DESCRIPTION} characters")
    if re.search(r"[\w\s]", given.get("emoji", "")):
        faults.append("emoji must be an emoji")
    if not (root / given["app_file"]).is_file():
        faults.append(f"there is no {given['app_file']}")
    return faults
