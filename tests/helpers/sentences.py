"""Which sentences are ours: every text in the source of the app, with anything where it fills in a value."""

import ast
import re
from functools import lru_cache
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "brain_xai"
# Shorter texts are names and formats, or parts of sentences.
MIN_LETTERS = 20


@lru_cache(maxsize=1)
def _patterns() -> re.Pattern:
    """Return what matches each text that is written in the source."""
    texts = set()
    for file in SOURCE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            values = node.values if isinstance(node, ast.JoinedStr) else [node]
            if id(node) in parts or not all(_is_text(value) for value in values):
                continue
            fixed = "".join(value.value for value in values if isinstance(value, ast.Constant))
            if len(re.sub(r"[^A-Za-z]", "", fixed)) >= MIN_LETTERS and " " in fixed:
                texts.add("".join(_pattern_of(value) for value in values))
    return re.compile("|".join(sorted(texts)), re.DOTALL)


def is_ours(message: str) -> bool:
    """Return whether a message is made of a sentence of the app, without a path and without the name of an error."""
    is_private = re.search(r"/(tmp|home|usr|root)/|Traceback|Error\b|Exception\b|0x[0-9a-f]{6}", message)
    ours = _patterns().search(message)
    return bool(ours and message.endswith(".") and not is_private and len(ours[0]) > len(message) / 2)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.FormattedValue) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _pattern_of(node: ast.AST) -> str:
    return re.escape(node.value) if isinstance(node, ast.Constant) else ".*?"
