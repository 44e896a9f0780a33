"""Keep paths of this machine, and with them user names, out of what is published."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.publishing.upload import PushError

# A path from a root, a home folder, a parent folder, a drive or a network share, but no https://host/path.
LOCAL_PATH = re.compile(
    r"""(?: (?<! [^\s='"`(\[,;:] )  # at the start of a word
            (?: /(?=[\w.]) | ~[\w.-]*/ | \.\.[\\/] | [A-Za-z]:[\\/](?=\w) | \\\\(?=\w) )
        | file://
        ) \S+""",
    re.VERBOSE,
)


def check_no_local_paths(files: Mapping[str, Path | bytes]) -> None:
    """Raise `PushError` if a string in a JSON file names a path of this machine; the card quotes these files only."""
    for name, file in files.items():
        if name.endswith(".json"):
            try:
                content = json.loads(Path(file).read_text(encoding="utf-8"))
            except ValueError as error:
                raise PushError(f"{name} cannot be read as JSON: {error}.") from error
            for text in _strings(content):
                if found := LOCAL_PATH.search(text):
                    raise PushError(f"{name} names a path of this machine, {found[0]!r}. Keep its last part only.")


def _strings(content: object) -> Iterator[str]:
    """Yield every string in a JSON value, keys included."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value)
    elif isinstance(content, dict):
        yield from _strings([*content, *content.values()])
