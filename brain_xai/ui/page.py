"""The page: its components, from top to bottom."""

from pathlib import Path

import gradio as gr

from brain_xai.checkpoint.catalog import allowed_checkpoints
from brain_xai.methods import METHODS
from brain_xai.preprocess import MAX_FILE_BYTES
from brain_xai.ui import calls, endpoints, measured, study_page, texts
from brain_xai.ui.case_strip import CaseStrip, cases_strip
from brain_xai.ui.events import Components, connect
from brain_xai.ui.language import CATALOGS, ENGLISH, label
from brain_xai.ui.privacy import KEPT_MINUTES, SWEEP_SECONDS
from brain_xai.ui.session import FIRST_METHOD, OPACITY, Session
from brain_xai.ui.shortages import refuse_on_shortage

KEPT_SECONDS = 60 * KEPT_MINUTES
# The browser chooses the language.
UPLOAD_HTML = """${((say) => `<label class="drop"><input type="file" multiple aria-label="${say.first}">
<strong class="first">${say.first}</strong><strong class="next">${say.next}</strong>
<span class="hint">${say.hint}</span><span class="note" role="status"></span></label>`)(
words[navigator.language.slice(0, 2)] || words.en)}"""


def build_page() -> gr.Blocks:
    """Build the page and its endpoints, without loading a model; exits with a sentence if there is no checkpoint.

    Gradio writes drawings to its upload folder, so call `isolate_upload_folder` first to serve the page.
    """
    allowed = allowed_checkpoints()
    if not allowed:
        raise SystemExit(texts.NO_CHECKPOINT)
    with gr.Blocks(title=texts.TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)) as page:
        top = gr.HTML(texts.disclaimer(), elem_id="top")
        strip, components = _choosing(allowed)
        components["top"] = top
        with gr.Row(visible=False, elem_id="result") as result:
            components |= {"result": result} | _answer_column(allowed) | _map_column()
        components |= _gallery()
        study_page.add(page, components["checkpoint"], components["delete"], components["image"])
        components |= _about()
        components["session"] = gr.State(Session(tuple(strip.cases)), time_to_live=KEPT_SECONDS)
        connect(page, components, strip)
        endpoints.add_endpoints()
    calls.accept_calls(page)
    refuse_on_shortage(page)
    return page


def _choosing(allowed: list[str]) -> tuple[CaseStrip, Components]:
    cases_title = gr.HTML(texts.cases_title(), elem_id="cases-title")
    with gr.Row(elem_id="choosing"):
        strip = cases_strip(allowed)
        image = gr.HTML(
            html_template=UPLOAD_HTML,
            js_on_load=_script("upload.js"),
            elem_id="image",
            limit=MAX_FILE_BYTES,
            words={code: _upload_words(code) for code in (ENGLISH, *CATALOGS)},
        )
    with gr.Row(elem_id="privacy-line"):
        privacy = gr.HTML(texts.privacy())
        delete = gr.Button(label(texts.DELETE), size="sm", elem_id="delete")
    return strip, {
        "cases_title": cases_title,
        "cases": strip.component,
        "privacy": privacy,
        "image": image,
        "delete": delete,
        "live": gr.HTML(js_on_load="element.setAttribute('role', 'status')", elem_id="live"),
        "notice": gr.HTML(elem_id="notice"),
    }


def _answer_column(allowed: list[str]) -> Components:
    with gr.Column(scale=3, min_width=300, elem_id="said"):
        with gr.Column(visible=False, elem_id="quiz") as quiz:
            guess = gr.Radio([], label=label(texts.QUIZ), elem_id="guess")
            no_guess = gr.Button(label(texts.NO_GUESS), size="sm", elem_id="no-guess")
        warnings = gr.HTML(elem_id="warnings")
        anyway = gr.Button(label(texts.ANYWAY), size="sm", visible=False, elem_id="anyway")
        with gr.Column(visible=False, elem_id="answer") as answer:
            sentence = gr.HTML(elem_id="sentence")
            doubt = gr.Button(visible=False, size="sm", elem_id="doubt")
            target = gr.Radio([], label=label(texts.TARGET_LABEL), elem_id="target")
            covered = gr.HTML(elem_id="covered")
            checkpoint = gr.Radio(
                measured.checkpoint_choices(allowed),
                value=allowed[0],
                label=label(texts.CHECKPOINT_LABEL),
                visible=len(allowed) > 1,
                elem_id="checkpoint",
            )
        truth = gr.HTML(elem_id="truth")
    return {
        "quiz": quiz,
        "guess": guess,
        "no_guess": no_guess,
        "warnings": warnings,
        "anyway": anyway,
        "answer": answer,
        "sentence": sentence,
        "doubt": doubt,
        "target": target,
        "covered": covered,
        "checkpoint": checkpoint,
        "truth": truth,
    }


def _map_column() -> Components:
    with gr.Column(scale=4, min_width=300, elem_id="views"):
        with gr.Row(elem_id="panels"):
            scan = gr.HTML(elem_id="scan", js_on_load=_script("panel.js"))
            overlay = gr.HTML(elem_id="overlay", js_on_load=_script("panel.js"))
        with gr.Column(visible=False, elem_id="reasons") as reasons:
            with gr.Row(elem_id="status"):
                hint = gr.HTML(texts.hint(), elem_id="hint")
                progress = gr.HTML(elem_id="progress")
                cancel = gr.Button(label(texts.CANCEL), size="sm", visible=False, elem_id="cancel")
            controls = _controls()
    return {
        "scan": scan,
        "overlay": overlay,
        "reasons": reasons,
        "hint": hint,
        "progress": progress,
        "cancel": cancel,
        **controls,
    }


def _controls() -> Components:
    methods = [(method.title, method.key) for method in METHODS.values()]
    with gr.Row(elem_id="controls"):
        method = gr.Dropdown(
            methods,
            value=FIRST_METHOD,
            label=label(texts.METHOD_LABEL),
            scale=3,
            elem_id="method",
        )
        opacity = gr.Slider(
            minimum=0,
            maximum=1,
            value=OPACITY,
            step=0.05,
            label=label(texts.OPACITY_LABEL),
            scale=2,
            elem_id="opacity",
            buttons=[],
        )
        with gr.Column(min_width=150, elem_id="toggles"):
            outline = gr.Checkbox(False, label=label(texts.OUTLINE_LABEL), elem_id="outline")
            as_model = gr.Checkbox(False, label=label(texts.AS_MODEL_LABEL), elem_id="as-model")
            show_box = gr.Checkbox(False, label=label(texts.SHOW_BOX), visible=False, elem_id="show-box")
    return {
        "method": method,
        "opacity": opacity,
        "outline": outline,
        "as_model": as_model,
        "show_box": show_box,
        "caption": gr.HTML(elem_id="caption"),
        **_actions(),
    }


def _actions() -> Components:
    with gr.Row(elem_id="actions"):
        return {
            "cover": gr.Button(label(texts.COVER_STRONGEST), size="sm", elem_id="cover"),
            "uncover": gr.Button(label(texts.UNCOVER), size="sm", visible=False, elem_id="uncover"),
            "compare": gr.Button(label(texts.COMPARE), size="sm", elem_id="compare"),
            "save_map": gr.Button(label(texts.SAVE_MAP), size="sm", elem_id="save-map"),
            "save_numbers": gr.Button(label(texts.SAVE_NUMBERS), size="sm", elem_id="save-numbers"),
            "save_report": gr.Button(label(texts.SAVE_REPORT), size="sm", elem_id="save-report"),
            "file": gr.DownloadButton("", visible="hidden", elem_id="file"),
        }


def _gallery() -> Components:
    # The style sheet decides how many images are side by side, by the width of the page.
    gallery = gr.Gallery(
        height="auto",
        object_fit="contain",
        visible=False,
        interactive=False,
        allow_preview=False,  # a tap makes a map the main one
        buttons=[],  # the default includes Share, which publishes the image
        elem_id="gallery",
    )
    return {"gallery": gallery, "gallery_notes": gr.HTML(elem_id="gallery-notes")}


def _about() -> Components:
    with gr.Accordion(label(texts.HOW_TO_READ), open=False):
        how_to_read = gr.Markdown(texts.how_to_read())
    sections = {}
    for name, title in (
        ("model_card", texts.ABOUT_MODEL),
        ("data", texts.ABOUT_DATA),
        ("limits", texts.LIMITS),
        ("links", texts.LINKS),
    ):
        with gr.Accordion(label(title), open=False):
            sections[name] = gr.Markdown(elem_id=name.replace("_", "-"))
    return {"how_to_read": how_to_read, **sections}


def _upload_words(code: str) -> dict[str, str]:
    """Return what the place to choose an image says in a language."""
    words = {
        "first": texts.UPLOAD,
        "next": texts.UPLOAD_NEXT,
        "hint": texts.UPLOAD_HINT,
        "large": texts.TOO_LARGE,
        "busy": texts.UPLOADING,
        "failed": texts.UPLOAD_FAILED,
    }
    return {name: CATALOGS.get(code, {}).get(sentence, sentence) for name, sentence in words.items()}


def _script(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
