"""Every sentence that a visitor can read has a German one, with the same placeholders, and nothing is left over."""

import ast
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import brain_xai
from brain_xai import METHODS, preprocess, summary, trust
from brain_xai.checkpoint.catalog import bundled_checkpoints, checkpoint_folder
from brain_xai.checkpoint.schema import read_json
from brain_xai.ui import texts
from brain_xai.ui.cases import cases_of
from brain_xai.ui.language import CATALOGS, PLACEHOLDER

UI = Path(brain_xai.__file__).parent / "ui"
TRANSLATORS = ("_", "label", "translated")
HOLE = "\0"
# A literal with holes says enough to tell which sentence is made of it.
LONG = 15
SENTENCE = re.compile(r"[A-Z\0].*\s.*[.?!…]", re.DOTALL)
# What callers of the API and maintainers read, which is in English.
NOT_ON_THE_PAGE = re.compile(
    r"ui/(api|batch|calls|callers|endpoints|guard|mcp|serving|studies|study_api|hub_follower)\.py"
    r"|study/secondary_capture\.py"
)
# So are errors for programmers.
PROGRAMMING_ERRORS = {"ValueError", "TypeError", "RuntimeError", "SystemExit"}
# Sentences in those modules that visitors do not read.
ENGLISH_ONLY = {texts.NO_CHECKPOINT, "The files hold \0 series: \0\0. Choose one by its number."}


def strings(value: object) -> Iterator[str]:
    """Yield every sentence in a constant of a module."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from strings(item)


def translated_in(file: Path) -> Iterator[str]:
    """Yield the sentences that a file of the page passes to a translator, as literals or as constants."""
    module = importlib.import_module(f"brain_xai.ui.{file.stem}")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        arguments = call.args[:1]
        if name == "map" and getattr(call.args[0], "id", "") == "_":
            name, arguments = "_", call.args[1:]
        if name in TRANSLATORS and arguments:
            yield from said(arguments[0], module, parents)


def said(node: ast.AST, module: object, parents: dict) -> Iterator[str]:
    """Yield the sentences that an expression can stand for: literals, constants, local variables set to literals."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from said(node.body, module, parents)
        yield from said(node.orelse, module, parents)
    elif isinstance(node, ast.Subscript):
        yield from said(node.value, module, parents)
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get":
        yield from said(node.func.value, module, parents)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = getattr(module, node.value.id, None)
        yield from strings(getattr(owner, node.attr, None))
    elif isinstance(node, ast.Name):
        yield from strings(getattr(module, node.id, None))
        yield from local(node, module, parents)


def local(name: ast.Name, module: object, parents: dict) -> Iterator[str]:
    """Yield what a local variable is set to, or runs through, in the function around it."""
    scope: ast.AST | None = name
    while scope is not None and not isinstance(scope, ast.FunctionDef):
        scope = parents.get(scope)
    for node in ast.walk(scope) if scope else ():
        if isinstance(node, ast.Assign) and name.id in [getattr(target, "id", "") for target in node.targets]:
            yield from said(node.value, module, parents)
        elif isinstance(node, ast.For | ast.comprehension) and getattr(node.target, "id", "") == name.id:
            yield from said(node.iter, module, parents)


def core_sentences() -> Iterator[str]:
    """Yield what the page shows of the package: methods, warnings, summaries, cases, and errors about a file."""
    yield from (method.summary for method in METHODS.values())
    yield from trust.MESSAGES.values()
    yield from summary_sentences()
    for name in bundled_checkpoints():
        yield from map(texts.label_text, read_json(checkpoint_folder(name) / "config.json")["label_names"])
    for case in cases_of(bundled_checkpoints()):
        yield from (case.caption, case.lesson)


def summary_sentences() -> Iterator[str]:
    """Yield the places and the sentences with {names} of a summary."""
    yield from (*strings(summary.PLACES), summary.OUTSIDE, summary.NOTHING)
    for node in ast.walk(ast.parse(Path(summary.__file__).read_text(encoding="utf-8"))):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if PLACEHOLDER.search(text) and "\n" not in text and not text.startswith("Return"):  # no docstring
            yield text


def file_errors() -> Iterator[str]:
    """Yield the sentences of `UnreadableImage`, with a hole for each number or name in them."""
    for node in ast.walk(ast.parse(Path(preprocess.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UnreadableImage":
            yield from with_holes(node.args[0])
        elif isinstance(node, ast.FunctionDef) and node.name == "_not_an_image_text":
            for answer in (child for child in ast.walk(node) if isinstance(child, ast.Return)):
                yield from with_holes(answer.value)


def with_holes(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    elif isinstance(node, ast.Name):
        yield from strings(getattr(preprocess, node.id, None))


def literals() -> Iterator[str]:
    """Yield every literal of the package, with a hole for each number or name in it, and every finished constant."""
    for module in (texts, preprocess):
        yield from (text for name, value in vars(module).items() if name.isupper() for text in strings(value))
    for file in UI.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                yield from with_holes(node)


def sentences_in(file: Path) -> Iterator[str]:
    """Yield whatever looks like a sentence in a file, with a hole for each value in it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = {id(part) for node in ast.walk(tree) for part in not_shown(node)}
    for node in ast.walk(tree):
        if id(node) in skipped or not isinstance(node, ast.JoinedStr | ast.Constant):
            continue
        for text in with_holes(node) if isinstance(getattr(node, "value", ""), str) else ():
            if SENTENCE.fullmatch(text) and "<" not in text:
                yield text


def not_shown(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node that are no sentences of their own: docstrings, pieces of f-strings, other errors."""
    if isinstance(node, ast.Expr):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield from (part for part in ast.walk(node) if part is not node)
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in PROGRAMMING_ERRORS:
        yield from ast.walk(node)


def is_known(sentence: str, known: set[str]) -> bool:
    """Return whether a sentence with holes is in a catalog, with {names} or with values in their place."""
    pattern = pattern_of(sentence)
    return any(pattern.fullmatch(other) for other in known)


def pattern_of(sentence: str) -> re.Pattern:
    return re.compile(".*".join(map(re.escape, PLACEHOLDER.sub(HOLE, sentence).split(HOLE))), re.DOTALL)


def without_names(sentences: Iterable[str]) -> set[str]:
    return {PLACEHOLDER.sub(HOLE, sentence) for sentence in sentences}


@pytest.fixture(scope="module")
def page_sentences() -> set[str]:
    return {text for file in sorted(UI.glob("*.py")) for text in translated_in(file)} | set(core_sentences())


@pytest.mark.parametrize("code", CATALOGS)
def test_every_sentence_is_in_the_catalog(code, page_sentences):
    known = CATALOGS[code]
    assert sorted(page_sentences - set(known)) == []
    assert sorted(set(file_errors()) - without_names(known)) == []


@pytest.mark.parametrize("code", CATALOGS)
def test_no_module_of_the_page_holds_a_sentence_that_is_not_in_the_catalog(code):
    """Also what reaches the page through an error or a warning, where no translator is called by name."""
    known = without_names(CATALOGS[code]) | ENGLISH_ONLY
    files = [*UI.glob("*.py"), *(UI.parent / "study").glob("*.py"), Path(preprocess.__file__), Path(trust.__file__)]
    shown = [file for file in files if not NOT_ON_THE_PAGE.search(file.as_posix())]
    missing = {text for file in shown for text in sentences_in(file) if not is_known(text, known)}
    assert sorted(missing) == []


@pytest.mark.parametrize("code", CATALOGS)
def test_no_entry_is_left_over(code, page_sentences):
    known = page_sentences | set(literals())
    unused = [text for text in CATALOGS[code] if text not in known and not without_names([text]) & known]
    made = [pattern_of(text) for text in known if HOLE in text and len(text) >= LONG]
    assert [text for text in unused if not any(pattern.fullmatch(text) for pattern in made)] == []


@pytest.mark.parametrize("code", CATALOGS)
def test_translations_have_the_placeholders_of_the_sentence(code):
    for sentence, translation in CATALOGS[code].items():
        assert sorted(set(PLACEHOLDER.findall(sentence))) == sorted(set(PLACEHOLDER.findall(translation))), sentence
        assert translation.strip(), sentence
        assert (sentence[-1] in ".:?!…") == (translation[-1] in ".:?!…"), sentence
