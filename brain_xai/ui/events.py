"""Which handler each event of the page calls."""

import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.blocks import Block

from brain_xai.ui import downloads, handlers
from brain_xai.ui.case_strip import CaseStrip
from brain_xai.ui.jobs import PAGE, QUICK
from brain_xai.ui.language import localized
from brain_xai.ui.session import PageUpdate, Question
from brain_xai.ui.visitors import Belongings

# These events are not part of the API.
PRIVATE = {"api_visibility": "private", "preprocess": False}
IMMEDIATE = {"queue": False, "show_progress": "hidden", **PRIVATE}
# Whoever asks again is not kept waiting for the answer to the previous question, which a handler stops.
DRAWN = {"trigger_mode": "multiple", "show_progress": "hidden", **PRIVATE, **PAGE}
# In the browser: the map that was chosen below comes into view; the tiles get their place before the first one is
# there, with the progress in view; after a deletion the page is as it was at first.
SHOW_MAP = "() => document.querySelector('#panels').scrollIntoView({ block: 'start' })"
MAKE_ROOM = """() => {
  const status = document.querySelector("#status");
  status.classList.add("comparing");
  setTimeout(() => status.classList.remove("comparing"), 10000);
  status.scrollIntoView({ block: "start" });
}"""
START_AGAIN = "() => document.querySelector('#image .prose').classList.remove('asked')"
# The components of the page by the names that `Question` and `PageUpdate` use.
Components = dict[str, Block]


def connect(page: gr.Blocks, components: Components, strip: CaseStrip) -> None:
    """Connect every event of the page to its handler; call it inside of the page's context."""
    _wire_questions(components, strip)
    _wire_looks(components)
    _wire_model(page, components)
    _wire_belongings(page, components)


def _wire_questions(components: Components, strip: CaseStrip) -> None:
    """Connect what asks for an answer or a map."""
    question, update = _question(components), _update(components)

    def on_case(request: gr.Request, event: gr.EventData, *values: Any) -> Any:
        yield from localized(handlers.on_case)(request, Question(*values), strip.chosen(event))

    def on_upload(request: gr.Request, image: Any, *values: Any) -> Any:
        yield from localized(handlers.on_upload)(request, Question(*values), image)

    def on_guess(request: gr.Request, guess: str | None, *values: Any) -> Any:
        yield from localized(handlers.on_guess)(request, Question(*values), guess)

    components["cases"].click(on_case, question, update, **DRAWN)
    components["image"].upload(on_upload, [components["image"], *question], update, **DRAWN)
    components["guess"].input(on_guess, [components["guess"], *question], update, **DRAWN)
    for name, handler in (
        ("no_guess", handlers.on_question),
        ("anyway", handlers.on_anyway),
        ("doubt", handlers.on_doubt),
        ("compare", handlers.on_compare),
    ):
        components[name].click(_asking(handler), question, update, **DRAWN)
    for name in ("method", "target"):
        components[name].input(_asking(handlers.on_choice), question, update, **DRAWN)


def _wire_looks(components: Components) -> None:
    """Connect what shows the same answer in another way, covers the scan, or ends something."""
    question, update = _question(components), _update(components)

    def on_tile(request: gr.Request, event: gr.SelectData, *values: Any) -> PageUpdate:
        return localized(handlers.on_tile)(request, Question(*values), event.index)

    def on_cover(request: gr.Request, event: gr.SelectData, *values: Any) -> PageUpdate:
        return localized(handlers.on_cover)(request, Question(*values), event.index)

    components["gallery"].select(on_tile, question, update, **IMMEDIATE).success(None, js=SHOW_MAP, **PRIVATE)
    components["compare"].click(None, js=MAKE_ROOM, **IMMEDIATE)
    components["delete"].click(None, js=START_AGAIN, **IMMEDIATE)
    components["scan"].select(on_cover, question, update, show_progress="hidden", **PRIVATE, **QUICK)
    components["cover"].click(
        _asking(handlers.on_cover_strongest), question, update, show_progress="hidden", **PRIVATE, **QUICK
    )
    for name in ("opacity", "outline", "as_model", "show_box"):
        components[name].input(_asking(handlers.on_look), question, update, trigger_mode="always_last", **IMMEDIATE)
    for name, handler in (
        ("uncover", handlers.on_uncover),
        ("cancel", handlers.on_cancel),
        ("delete", handlers.on_delete),
    ):
        components[name].click(_asking(handler), question, update, **IMMEDIATE)
    for name, save in (
        ("save_map", downloads.save_map),
        ("save_numbers", downloads.save_numbers),
        ("save_report", downloads.save_report),
    ):
        components[name].click(_asking(save), question, components["file"], **PRIVATE, **QUICK).success(
            None, js="() => document.querySelector('#file').click()"
        )


def _wire_model(page: gr.Blocks, components: Components) -> None:
    """Speak the visitor's language, and ask and describe the chosen model, of which the Hub may have a new revision."""
    chosen = components["checkpoint"].input
    answered = chosen(_asking(handlers.on_question), _question(components), _update(components), **DRAWN).then
    spoken = [components[name] for name in ("top", "cases_title", "privacy", "hint", "how_to_read", "checkpoint")]
    page.load(localized(handlers.on_load), None, spoken, **IMMEDIATE)
    strip = {"inputs": [components["session"], components["checkpoint"]], "outputs": components["cases"]}
    for event in (page.load, answered):
        event(localized(handlers.on_verdicts), **strip, **IMMEDIATE)
    for event in (page.load, chosen):
        event(
            localized(handlers.on_model),
            components["checkpoint"],
            [components[name] for name in ("method", "model_card", "data", "limits", "links")],
            **IMMEDIATE,
        )


def _wire_belongings(page: gr.Blocks, components: Components) -> None:
    """Delete what belongs to a visitor: with the next image, on request, and when the page is left."""
    belongings = Belongings(page)

    def forget_for_case(request: gr.Request) -> None:
        belongings.forget_previous(None, request)

    components["image"].upload(belongings.forget_previous, components["image"], None, **IMMEDIATE)
    components["cases"].click(forget_for_case, None, None, **IMMEDIATE)
    components["delete"].click(belongings.forget, None, None, **IMMEDIATE)
    page.unload(belongings.forget)


def _question(components: Components) -> list[Block]:
    return [components[name] for name in Question.__dataclass_fields__]


def _update(components: Components) -> list[Block]:
    return [components[name] for name in PageUpdate._fields]


def _asking(handler: Callable[[Question], Any]) -> Callable[..., Any]:
    """Return a handler of a `Question` as Gradio calls it: with the values of the components, one by one."""
    if inspect.isgeneratorfunction(handler):  # Gradio has to see that this one is a generator function, too

        def asked(request: gr.Request, *values: Any) -> Any:
            yield from localized(handler)(request, Question(*values))
    else:

        def asked(request: gr.Request, *values: Any) -> Any:
            return localized(handler)(request, Question(*values))

    asked.__name__ = handler.__name__  # by which it is counted
    return asked
