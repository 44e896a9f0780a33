"""The page: which components there are, where they stand, and which handler each one calls."""

from pathlib import Path

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder

from brain_xai.checkpoint.catalog import allowed_checkpoints, checkpoint_folder
from brain_xai.methods import METHODS
from brain_xai.ui import api, handlers, texts
from brain_xai.ui.examples import phantoms
from brain_xai.ui.inputs import OPACITY
from brain_xai.ui.privacy import KEPT_MINUTES, SWEEP_SECONDS, make_gradio_forget, sweeping

# Two lanes, because handlers in one lane wait for each other and a machine of two cores can compute two things at once:
# an answer takes well under a second, so one after the other is quickest for all; maps that take seconds queue among
# themselves. So however many wait for occlusion, a prediction waits for one other prediction at most.
QUICK = {"concurrency_id": "quick", "concurrency_limit": 1}
SLOW = {"concurrency_id": "slow", "concurrency_limit": 1}
# At five seconds a map the last in a full queue waits for three minutes; more would only be given up.
QUEUE = {"max_size": 40}

KEPT_SECONDS = 60 * KEPT_MINUTES

# Everything that gradio would by default keep, count or tell about its visitors is off.
LAUNCH = {
    "enable_monitoring": False,
    "run_history": False,
    "show_error": False,  # messages of unexpected errors name files
    "ssr_mode": False,
    "footer_links": ["api"],
    # Above our own limit of 20 MB, so that a file of 50 MB is refused with our sentence instead of "413".
    "max_file_size": "64mb",
    "state_session_capacity": 1000,
    "css_paths": Path(__file__).with_name("style.css"),
    "theme": gr.themes.Default(  # system fonts: the page fetches nothing from elsewhere
        primary_hue="teal",  # orange and blue mean something here
        text_size="lg",
        font=["system-ui", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ),
}

# Not for the API. Pictures skip gradio's decoder: it clips 16 bit to white and hides what is wrong with a file.
PAGE = {"api_visibility": "private", "preprocess": False}


def build_page() -> gr.Blocks:
    """Build the page and its endpoints; exits with a sentence where there is no checkpoint to serve."""
    allowed = allowed_checkpoints()
    if not allowed:
        raise SystemExit(texts.NO_CHECKPOINT)
    make_gradio_forget()
    handlers.warm_up()
    with gr.Blocks(title=texts.TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)) as page:
        _page(page, allowed)
        _endpoints()
    api.refuse_unreadable_calls(page)
    return page.queue(**QUEUE)


def launch(page: gr.Blocks, **settings) -> tuple:
    """Serve a page with `LAUNCH`, gradio's own `settings` (a port, say) on top; returns what gradio's launch does."""
    return page.launch(**LAUNCH, app_kwargs={"lifespan": sweeping}, **settings)


def _page(page: gr.Blocks, allowed: list[str]) -> None:
    gr.Markdown(f"# {texts.TITLE}\n{texts.TAGLINE}")
    gr.HTML(texts.disclaimer(), padding=False)
    with gr.Row():
        # On a phone the columns stand below each other: picture, answer, map.
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(
                label=texts.PICTURE_LABEL,
                show_label=False,
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                placeholder=texts.UPLOAD,
                height=280,
                buttons=[],
                elem_id="picture",
            )
            notice = gr.HTML(texts.empty_result(), padding=False, elem_id="notice")
            with gr.Column(visible=False) as answer:
                probabilities = gr.Label(label=texts.PROBABILITIES_LABEL, elem_id="probabilities")
                accuracy = gr.Markdown(elem_classes="fine-print")
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
            opacity = gr.Slider(0, 1, value=OPACITY, step=0.05, label=texts.OPACITY_LABEL, elem_id="opacity")
            outline = gr.Checkbox(False, label=texts.OUTLINE_LABEL, elem_id="outline")
            with gr.Row():
                method = gr.Dropdown(
                    [(method.title, method.key) for method in METHODS.values()],
                    value=handlers.FIRST_METHOD,
                    label=texts.METHOD_LABEL,
                    min_width=220,
                    elem_id="method",
                )
                target = gr.Dropdown(
                    [(texts.PREDICTED, "predicted")],
                    value="predicted",
                    label=texts.TARGET_LABEL,
                    min_width=220,
                    elem_id="target",
                )
            start = gr.Button(texts.START, variant="primary", visible=False, elem_id="start")
            progress = gr.HTML(padding=False, elem_id="progress")
            cancel = gr.Button(texts.CANCEL, visible=False, elem_id="cancel")
            compare = gr.Button(texts.COMPARE, elem_id="compare")
    # How many stand side by side, the style sheet decides by the width of the page.
    gallery = gr.Gallery(
        format="png",
        height="auto",
        object_fit="contain",
        visible=False,
        interactive=False,
        buttons=["download_all", "download", "fullscreen"],  # the default includes Share, which publishes the image
        elem_id="gallery",
    )
    gallery_notes = gr.HTML(padding=False, elem_id="gallery-notes")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Examples(
                [[path] for path in _example_files(allowed)],
                picture,
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
                model_card = gr.Markdown(handlers.about_model(allowed[0]))
        with gr.Column(scale=3, min_width=300), gr.Accordion(texts.HOW_TO_READ):
            gr.Markdown(_reading())

    # In memory, for this visitor alone: the map on show, so that another opacity needs no new computation, and what
    # stops the one being computed. Gradio's own `cancels` drops the browser's connection, which may then show "Error".
    shown, running = (gr.State(time_to_live=KEPT_SECONDS) for _ in range(2))
    buttons = [start, cancel, progress]
    maps = [overlay, caption, gallery, gallery_notes]
    shows = [notice, answer, reasons, probabilities, accuracy, *maps, shown, running, *buttons]
    look = [opacity, outline]
    question = [picture, checkpoint, method, target, *look, running]

    at_once = {"queue": False, "show_progress": "hidden", **PAGE}
    for button, handler in ((start, handlers.show_stepwise), (compare, handlers.show_comparison)):
        # "multiple", because one who cancels and starts again may be quicker than the map that is being stopped.
        button.click(handlers.stand_in_line, None, shows, **at_once).then(
            handler, question, shows, show_progress="hidden", trigger_mode="multiple", **PAGE, **SLOW
        )
    cancel.click(handlers.cancel, [method, running], shows, **at_once)
    new = {"show_progress": "minimal", "show_progress_on": [notice, probabilities], **PAGE, **QUICK}
    for changed in (picture.change, checkpoint.input):
        changed(handlers.show_new, [picture, checkpoint, *look, running], [method, target, *shows], **new)
    for changed in (method.input, target.input):
        changed(handlers.show, question, shows, **new)
    for event in (page.load, checkpoint.input):  # the Hub may hold another revision by now
        event(handlers.about_model, checkpoint, model_card, **at_once)
    for changed in (opacity.input, outline.input):
        changed(handlers.redraw, [shown, *look], [overlay, notice], trigger_mode="always_last", **at_once)


def _endpoints() -> None:
    """Define the public API: hidden components, because they give it its types, defaults and files that are deleted."""
    with gr.Column(visible=False):
        image = gr.Image(type="filepath", image_mode=None, label="image", buttons=[])
        checkpoint = gr.Textbox("default", label="checkpoint")
        method = gr.Textbox(handlers.FIRST_METHOD, label="method")
        target = gr.Textbox("predicted", label="target")
        overlay = gr.Image(format="png", label="overlay", buttons=[])
        attribution = gr.File(label="attribution")
        gallery = gr.Gallery(format="png", label="gallery", buttons=[])
        facts = gr.JSON(label="facts")
        call = gr.Button()
    call.click(
        api.predict,
        [image, checkpoint],
        facts,
        api_name="predict",
        api_description=texts.PREDICT_DESCRIPTION,
        preprocess=False,
        **QUICK,
    )
    call.click(
        api.explain_scan,
        [image, checkpoint, method, target],
        [overlay, attribution, facts],
        api_name="explain",
        api_description=texts.EXPLAIN_DESCRIPTION,
        preprocess=False,
        **SLOW,
    )
    call.click(
        api.compare_scan,
        [image, checkpoint, target],
        [gallery, facts],
        api_name="compare",
        api_description=texts.COMPARE_DESCRIPTION,
        preprocess=False,
        **SLOW,
    )
    call.click(
        api.checkpoints,
        None,
        facts,
        api_name="checkpoints",
        api_description=texts.CHECKPOINTS_DESCRIPTION,
        **QUICK,
    )


def _reading() -> str:
    methods = "\n".join(f"- **{method.title}.** {method.summary}" for method in METHODS.values())
    return f"{texts.READING}\n{methods}"


def _example_files(allowed: list[str]) -> list[str]:
    """Return the phantoms, and the scans that the checkpoints bring along."""
    folder = get_upload_folder()
    drawn = [save_pil_to_cache(image, folder, name=caption, format="png") for caption, image in phantoms()]
    folders = [folder for folder in map(checkpoint_folder, allowed) if folder is not None]
    scans = [str(scan) for folder in folders for scan in sorted((folder / "examples").glob("*.png"))]
    return drawn + scans
