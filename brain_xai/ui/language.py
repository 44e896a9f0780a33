"""The page in the visitor's language: each English sentence is looked up in a catalog, English where it has none."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

ENGLISH = "en"
# {language: {English sentence: sentence}}; both sentences have the same {placeholders}.
CATALOGS: dict[str, dict[str, str]] = {
    "de": json.loads(Path(__file__).with_name("de.json").read_text(encoding="utf-8")),
}
PLACEHOLDER = re.compile(r"\{(\w+)\}")

_language: ContextVar[str] = ContextVar("language", default=ENGLISH)
# What `label` was called with. The browser translates these, so it gets this part of the catalogs only.
_labels: set[str] = set()


def _(sentence: str, **values: object) -> str:
    """Return an English sentence in the language of the current request, with its {placeholders} filled in."""
    text = CATALOGS.get(_language.get(), {}).get(sentence, sentence)
    return text.format(**values) if values else text


def label(sentence: str) -> I18nData:
    """Return a text of the page that never changes; the browser shows it in its own language.

    Gradio cannot translate sentences with braces in the browser.
    """
    _labels.add(sentence)
    return I18nData(sentence)


def labels() -> gr.I18n:
    """Return the translations of all labels so far, for `launch`."""
    catalogs = {
        code: {text: found for text in _labels if (found := known.get(text))} for code, known in CATALOGS.items()
    }
    return gr.I18n(en={text: text for text in _labels}, **catalogs)


def translated(message: str) -> str:
    """Return a finished English message, such as a warning, in the language of the current request.

    A message with numbers or names in it is recognized by the sentence with placeholders that it was made of.
    """
    known = CATALOGS.get(_language.get(), {})
    if message in known:
        return known[message]
    for pattern, text in _patterns(_language.get()):
        if found := pattern.fullmatch(message):
            return text.format(**found.groupdict())
    return message


def of_request(request: gr.Request | None) -> str:
    """Answer in the language that a request asks for first, from now on in this context; return its code."""
    header = request.headers.get("accept-language", "") if request else ""
    code = preferred(header)
    _language.set(code)
    return code


def preferred(accept_language: str) -> str:
    """Return the language that comes first in an Accept-Language header, as the browser does; English if unknown."""
    choices = []
    for choice in accept_language.split(","):
        name, *parameters = choice.strip().split(";")
        weight = next((value for key, _eq, value in (p.strip().partition("=") for p in parameters) if key == "q"), "1")
        choices.append((_number(weight), name.strip().split("-")[0].lower()))
    best = max(choices, key=lambda choice: choice[0])[1]  # of equal ones the first
    return best if best in CATALOGS else ENGLISH


def localized(handler: Callable) -> Callable:
    """Return a handler of values as Gradio calls it, which answers in the language of the visitor.

    Gradio runs each step of a generator in a context of its own, hence one context for all steps.
    """
    if inspect.isgeneratorfunction(handler):

        def spoken(request: gr.Request, *values: Any) -> Any:
            steps, context = handler(*values), copy_context()
            context.run(of_request, request)
            try:
                with _speaking(context):
                    while (step := context.run(next, steps, None)) is not None:
                        yield step
            finally:
                steps.close()
    else:

        def spoken(request: gr.Request, *values: Any) -> Any:
            context = copy_context()
            context.run(of_request, request)
            with _speaking(context):
                return context.run(handler, *values)

    spoken.__name__ = handler.__name__
    return spoken


@contextmanager
def _speaking(context: Context) -> Iterator[None]:
    """Translate the message of an error that Gradio is going to show."""
    try:
        yield
    except gr.Error as error:
        error.message = context.run(translated, error.message)
        raise


@cache
def _patterns(code: str) -> list[tuple[re.Pattern, str]]:
    """Return the sentences with placeholders of a catalog as patterns, with their translations, the longest first."""
    with_holes = sorted(filter(PLACEHOLDER.search, CATALOGS.get(code, {})), key=len, reverse=True)
    return [(_pattern(sentence), CATALOGS[code][sentence]) for sentence in with_holes]


def _pattern(sentence: str) -> re.Pattern:
    seen: set[str] = set()
    parts = []
    for index, part in enumerate(PLACEHOLDER.split(sentence)):  # text, name, text, name, text ...
        if index % 2 == 0:
            parts.append(re.escape(part))
        else:
            parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>.+?)")
            seen.add(part)
    return re.compile("".join(parts), re.DOTALL)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
