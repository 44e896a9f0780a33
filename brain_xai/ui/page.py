"""The page: its components, and which handler each event calls."""

import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.blocks import Block

from brain_xai.checkpoint.catalog import allowed_checkpoints
from brain_xai.methods import METHODS
from brain_xai.ui import api, calls, handlers, texts
from brain_xai.ui.cases import example_files
from brain_xai.ui.handlers import PageUpdate, Question
from brain_xai.ui.jobs import QUICK, SLOW
from brain_xai.ui.privacy import KEPT_MINUTES, SWEEP_SECONDS
from brain_xai.ui.visitors import Belongings

KEPT_SECONDS = 60 * KEPT_MINUTES

# These events are not part of the API. Images skip Gradio's decoder, which clips 16 bits and hides errors.
PRIVATE = {"api_visibility": "private", "preprocess": False}
IMMEDIATE = {"queue": False, "show_progress": "hidden", **PRIVATE}
# The components of the page by the names that `Question` and `PageUpdate` use.
Components = dict[str, Block]


def build_page() -> gr.Blocks:
    """Build the page and its endpoints, without loading a model; exits with a sentence if there is no checkpoint.

    Gradio writes the example images to its upload folder, so call `isolate_upload_folder` first to serve the page.
    """
    allowed = allowed_checkpoints()
    if not allowed:
        raise SystemExit(texts.NO_CHECKPOINT)
    with gr.Blocks(title=texts.TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {texts.TITLE}\n{texts.TAGLINE}")
        gr.HTML(texts.disclaimer(), padding=False)
        with gr.Row():
            # On a phone the columns are below each other: image, answer, map.
            components = _input_column() | _answer_column()
        components |= _gallery()
        with gr.Row():
            components |= _about(allowed, components["image"])
        # In the server's memory, for one visitor: the map, so that another opacity needs no new computation, and what
        # stops the next one. Gradio's own `cancels` drops the browser's connection, which may then show "Error".
        components["current_explanation"] = gr.State(time_to_live=KEPT_SECONDS)
        components["stop_event"] = gr.State(time_to_live=KEPT_SECONDS)
        _wire(page, components)
        belongings = Belongings(page)
        components["image"].change(belongings.forget_previous, components["image"], None, **IMMEDIATE)
        page.unload(belongings.forget)
        api.add_endpoints()
    calls.accept_calls(page)
    return page


def _input_column() -> Components:
    with gr.Column(scale=2, min_width=300):
        image = gr.Image(
            label=texts.IMAGE_LABEL,
            show_label=False,
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            placeholder=texts.UPLOAD,
            height=280,
            buttons=[],
            elem_id="image",
        )
        notice = gr.HTML(texts.empty_result(), padding=False, elem_id="notice")
        with gr.Column(visible=False) as answer:
            probabilities = gr.Label(label=texts.PROBABILITIES_LABEL, elem_id="probabilities")
            accuracy = gr.Markdown(elem_classes="fine-print", elem_id="accuracy")
    return {
        "image": image,
        "notice": notice,
        "answer": answer,
        "probabilities": probabilities,
        "accuracy": accuracy,
    }


def _answer_column() -> Components:
    with gr.Column(scale=3, min_width=300, visible=False) as reasons:
        caption = gr.HTML(padding=False, elem_id="caption")
        overlay = gr.Image(
            label=texts.OVERLAY_LABEL,
            show_label=False,
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
            alt_text=texts.OVERLAY_LABEL,
            elem_id="overlay",
        )
        return {"reasons": reasons, "caption": caption, "overlay": overlay, **_controls()}


def _controls() -> Components:
    opacity = gr.Slider(0, 1, handlers.OPACITY, step=0.05, label=texts.OPACITY_LABEL, elem_id="opacity")
    outline = gr.Checkbox(False, label=texts.OUTLINE_LABEL, elem_id="outline")
    methods = [(method.title, method.key) for method in METHODS.values()]
    with gr.Row():
        method = gr.Dropdown(
            methods, value=handlers.FIRST_METHOD, label=texts.METHOD_LABEL, min_width=220, elem_id="method"
        )
        target = gr.Dropdown(
            [(texts.PREDICTED, "predicted")],
            value="predicted",
            label=texts.TARGET_LABEL,
            min_width=220,
            elem_id="target",
        )
    return {
        "opacity": opacity,
        "outline": outline,
        "method": method,
        "target": target,
        "start": gr.Button(texts.START, variant="primary", visible=False, elem_id="start"),
        "progress": gr.HTML(padding=False, elem_id="progress"),
        "cancel": gr.Button(texts.CANCEL, visible=False, elem_id="cancel"),
        "compare": gr.Button(texts.COMPARE, size="md", elem_id="compare"),
    }


def _gallery() -> Components:
    # The style sheet decides how many images are side by side, by the width of the page.
    gallery = gr.Gallery(
        format="png",
        height="auto",
        object_fit="contain",
        visible=False,
        interactive=False,
        buttons=["download_all", "download", "fullscreen"],  # the default includes Share, which publishes the image
        elem_id="gallery",
    )
    return {"gallery": gallery, "gallery_notes": gr.HTML(padding=False, elem_id="gallery-notes")}


def _about(allowed: list[str], image: Block) -> Components:
    with gr.Column(scale=2, min_width=300):
        gr.Examples(
            [[path] for path in example_files(allowed)],
            image,
            label=texts.EXAMPLES,
            api_visibility="private",
            elem_id="examples",
        )
        gr.Markdown(texts.PRIVACY, elem_classes="fine-print")
        with gr.Accordion(texts.ABOUT_MODEL):
            checkpoint = gr.Dropdown(
                [(texts.checkpoint_text(name), name) for name in allowed],
                value=allowed[0],
                label=texts.CHECKPOINT_LABEL,
                visible=len(allowed) > 1,
                elem_id="checkpoint",
            )
            model_card = gr.Markdown(elem_id="model-card")
    with gr.Column(scale=3, min_width=300), gr.Accordion(texts.HOW_TO_READ, open=False):
        gr.Markdown(texts.how_to_read())
    return {"checkpoint": checkpoint, "model_card": model_card}


def _wire(page: gr.Blocks, components: Components) -> None:
    """Connect the events with their handlers."""
    question = [components[name] for name in Question.__dataclass_fields__]
    update = [components[name] for name in PageUpdate._fields]

    def select(*names: str) -> list[Block]:
        return [components[name] for name in names]

    for button, handler in (("start", handlers.draw_slow_map), ("compare", handlers.draw_all_maps)):
        # "multiple": a visitor who cancels and starts again may be quicker than the map that is being stopped.
        components[button].click(handlers.show_waiting, None, update, **IMMEDIATE).then(
            _asking(handler), question, update, show_progress="hidden", trigger_mode="multiple", **PRIVATE, **SLOW
        )
    components["cancel"].click(handlers.on_cancel, select("method", "stop_event"), update, **IMMEDIATE)

    quick = {"show_progress": "minimal", "show_progress_on": select("notice", "probabilities"), **PRIVATE, **QUICK}
    for changed in (components["image"].change, components["checkpoint"].input):
        changed(_asking(handlers.on_new_image), question, update, **quick)
    for changed in (components["method"].input, components["target"].input):
        changed(_asking(handlers.on_new_choice), question, update, **quick)

    for event in (page.load, components["checkpoint"].input):  # the Hub may have another revision since the last visit
        event(handlers.describe_model, components["checkpoint"], components["model_card"], **IMMEDIATE)

    drawing = select("current_explanation", "opacity", "outline")
    for changed in (components["opacity"].input, components["outline"].input):
        changed(handlers.redraw, drawing, update, trigger_mode="always_last", **IMMEDIATE)


def _asking(handler: Callable[[Question], Any]) -> Callable[..., Any]:
    """Return a handler of a `Question` as Gradio calls it: with the values of the components, one by one."""
    if inspect.isgeneratorfunction(handler):  # Gradio has to see that this one is a generator function, too

        def asked(*values: Any) -> Any:
            yield from handler(Question(*values))
    else:

        def asked(*values: Any) -> Any:
            return handler(Question(*values))

    return asked
