"""The page's section for a whole study: a slider through the slices, the strip, what to look at first, downloads."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block

from brain_xai.explanation import Cancelled
from brain_xai.methods import METHODS
from brain_xai.study import SeveralSeries, StudyExplanation, strip_html
from brain_xai.study.explain import KEPT
from brain_xai.study.volume import PLANES
from brain_xai.ui import studies
from brain_xai.ui.inputs import UserError, get_classifier
from brain_xai.ui.jobs import LANE, PAGE, BackgroundJob, Progress, Step, Waiting
from brain_xai.ui.language import _, label, localized, translated
from brain_xai.ui.monitoring.monitor import count_refusal
from brain_xai.ui.privacy import KEPT_MINUTES
from brain_xai.ui.study_shelf import Shelf
from brain_xai.ui.study_views import (
    alert_html,
    first_choices,
    notice_html,
    panel_html,
    series_text,
    status_html,
)

TITLE = "A whole study: DICOM series or NIfTI volume"
UPLOAD = "Files"
HELP = (
    "Choose all DICOM files of one MR series, a ZIP of them, or one NIfTI file. Names and dates in the files are never "
    "read. Every slice is judged on its own. The files are deleted after 15 minutes."
)
GONE = "This study is deleted already. Choose the files again."
AUTOMATIC = "as scanned"
READING = "Reading the files …"
LOOKING = "Slice {number} of {count} …"
OTHERS_FIRST = "Waiting for others …"
SEVERAL = "The files hold {count} series. Choose one below."
SAVE_TABLE, SAVE_REPORT, SAVE_MAP = "Save table (CSV)", "Save report (one page)", "Save map (NIfTI)"
SAVE_IMAGES = "Save images (DICOM)"
DELETE = "Delete my files now"
STATE_SECONDS = 60 * KEPT_MINUTES
PRIVATE = {"api_visibility": "private", "preprocess": False}
STRIP_SCRIPT = Path(__file__).with_name("strip.js").read_text(encoding="utf-8")
SHELF = Shelf()
Save = Callable[[StudyExplanation, Callable[[int, int], None]], str]
# What each button saves; maps report how far they are.
SAVES: dict[str, Save] = {
    SAVE_TABLE: lambda explained, _progress: studies.save_table(explained),
    SAVE_REPORT: lambda explained, _progress: studies.save_report(explained),
    SAVE_MAP: studies.save_map,
    SAVE_IMAGES: studies.save_dicom,
}


class Update(NamedTuple):
    """Everything that a handler can change; the fields are named after components. By default nothing changes."""

    notice: Any = gr.skip()
    series: Any = gr.skip()
    result: Any = gr.skip()
    strip: Any = gr.skip()
    first: Any = gr.skip()
    position: Any = gr.skip()
    panel: Any = gr.skip()
    name: Any = gr.skip()


def add(page: gr.Blocks, checkpoint: Block, delete: Block, image: gr.HTML) -> None:
    """Add the section to a page.

    Args:
        page: The page, in whose context this is called.
        checkpoint: The component in which the visitor chooses a model.
        delete: The button that deletes all that the visitor has sent.
        image: Where images are chosen; it submits the files of a study.
    """
    with gr.Accordion(label(TITLE), open=False, elem_id="study") as section:
        about = gr.HTML(_help())
        with gr.Row():
            files = gr.File(label=label(UPLOAD), file_count="multiple", elem_id="study-files", height=150)
            with gr.Column():
                plane = gr.Dropdown(_planes(), value="", label=label("Plane"), elem_id="study-plane")
                methods = [(method.title, method.key) for method in METHODS.values()]
                method = gr.Dropdown(methods, value="grad_cam", label=label("Map"), elem_id="study-method")
        notice = gr.HTML(elem_id="study-notice")
        series = gr.Dropdown([], label=label("Series"), visible=False, elem_id="study-series")
        with gr.Column(visible=False, elem_id="study-result") as result:
            strip = gr.HTML(elem_id="study-strip", js_on_load=STRIP_SCRIPT)
            first = gr.Radio([], label=label("Most suspicious first"), elem_id="study-first")
            position = gr.Slider(1, 2, 1, step=1, label=label("Slice"), elem_id="study-position", buttons=[])
            panel = gr.HTML(elem_id="study-panel")
            with gr.Row():
                buttons = {gr.Button(label(text), size="sm"): save for text, save in SAVES.items()}
                erase = gr.Button(label(DELETE), size="sm")
            saved = gr.File(label=label("Saved"), visible=False, interactive=False, elem_id="study-saved")
        name = gr.State(None, time_to_live=STATE_SECONDS, delete_callback=SHELF.remove)
    update = [notice, series, result, strip, first, position, panel, name]
    asked = [files, checkpoint, method, plane, series, name]
    opening = {"show_progress": "hidden", "trigger_mode": "multiple", **PRIVATE, **PAGE}
    at_once = {"queue": False, "show_progress": "hidden", **PRIVATE}
    files.delete(localized(_choose), asked, update, **opening)
    sent = image.submit(_forward, image, [section, files], **at_once).then(None, js=_to_top("#study"), **PRIVATE)
    for chosen in (files.upload, sent.then):
        chosen(localized(_choose), asked, update, **opening).then(None, js=_to_top("#study-notice"), **PRIVATE)
    files.clear(_clear, name, update, **at_once)
    for changed in (plane, method, series):
        changed.input(localized(_open), asked, update, **opening)
    delete.click(_delete, name, [files, *update], **at_once)
    erase.click(None, js="() => document.querySelector('#delete').click()", **at_once)
    moving = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last", **PRIVATE}
    for moved, how in ((position, "slider"), (first, "list")):
        moved.input(localized(_showing(how)), [moved, name], update, **moving)
    strip.select(show_clicked_slice, name, update, **moving)
    page.load(localized(load_study_section), None, [about, plane], **at_once)
    for button, save in buttons.items():
        button.click(localized(_saving(save)), name, [saved, notice], **opening | {"trigger_mode": "once"})


def _to_top(element: str) -> str:
    """Return a script that brings a part of the page into view, once the page is as long as it will be."""
    return f"() => requestAnimationFrame(() => document.querySelector('{element}').scrollIntoView())"


def load_study_section() -> tuple[str, Any]:
    """Return the help and the planes to choose from, in the visitor's language."""
    return _help(), gr.update(choices=_planes())


def _help() -> str:
    return f'<p class="fine-print">{escape(_(HELP))}</p>'


def _planes() -> list[tuple[str, str]]:
    return [(_(AUTOMATIC), ""), *((_(plane), plane) for plane in PLANES)]


def _choose(files: Any, checkpoint: str, method: str, plane: str, _series: Any, name: str | None) -> Iterator[Update]:
    """Open other files, of which no series is chosen yet."""
    yield from _open(files, checkpoint, method, plane, None, name)


def _forward(sent: Any) -> tuple[Any, Any]:
    """Open the section with files that were chosen where images are chosen."""
    files = sent.get("files") if isinstance(sent, dict) else None
    paths = [str(file["path"]) for file in files or () if isinstance(file, dict) and "path" in file]
    return gr.update(open=True), paths


def _open(
    files: Any, checkpoint: str, method: str, plane: str, series: int | None, before: str | None
) -> Iterator[Update]:
    """Read the files and answer for all slices, showing how far that is; ends when the visitor leaves."""
    if not files:
        yield _clear(before)
        return
    # Gradio's dropdowns ask twice when something is chosen, and once when they are left as they were.
    reserved = SHELF.reserve(before, (files, checkpoint, method, plane, series))
    if reserved is None:
        yield Update()
        return
    choice, (name, closed) = studies.Choice(plane or None, series), reserved
    asking = gr.update(visible=False) if series is None else gr.skip()
    yield Update(status_html(_(READING)), series=asking, result=gr.update(visible=False), name=name)
    job = BackgroundJob(lambda progress: _explained(files, choice, checkpoint, method, progress), closed)
    try:
        for step in job:
            yield Update(status_html(_how_far(step)))
        yield _opened(name, closed, job.result())
    except Cancelled:
        return
    except (UserError, ValueError) as error:
        yield _refused(error)
    finally:
        if SHELF.get(name) is None and not closed.is_set():  # it was not opened: what is computed for it ends
            SHELF.remove(name)


def _explained(
    files: Any, choice: studies.Choice, checkpoint: str, method: str, progress: Progress
) -> StudyExplanation:
    study, step = studies.read_uploaded_study(files, choice), _giving_way(progress)
    step(0, len(study))
    classifier = get_classifier(checkpoint, allow_fallback=True)
    return studies.explain_uploaded_study(classifier, study, method, "suspected", step)


def _refused(error: UserError | ValueError) -> Update:
    """Say what is wrong, or ask which one of several series is meant."""
    if not isinstance(error, SeveralSeries):
        count_refusal()
        return Update(alert_html(translated(error.message if isinstance(error, UserError) else str(error))))
    choices = [(series_text(one), one.number) for one in error.series]
    shown = gr.update(choices=choices, value=None, visible=True)
    return Update(status_html(_(SEVERAL, count=len(choices))), series=shown)


def _clear(name: str | None) -> Update:
    SHELF.remove(name)
    return _closed()


def _delete(name: str | None) -> tuple[Any, ...]:
    """Forget the study and empty the section."""
    return None, *_clear(name)


def _closed() -> Update:
    hidden = gr.update(visible=False)
    return Update("", hidden, hidden, strip="", panel="", name=None)


def _opened(name: str, closed: threading.Event, explained: StudyExplanation) -> Update:
    opened = SHELF.put(name, closed, explained)
    if opened is None:
        raise Cancelled
    opened.compute_ahead(KEPT)
    return Update(
        notice_html(explained),
        result=gr.update(visible=True),
        strip=strip_html(explained, opened.current, _),
        first=gr.update(choices=first_choices(explained), value=opened.current + 1),
        position=gr.update(maximum=max(len(explained.study), 2), value=opened.current + 1),
        panel=panel_html(explained, opened.current),
    )


def _showing(moved: str) -> Callable[[Any, Any], Update]:
    def show_slice(number: Any, name: Any) -> Update:
        return _show(number, name, moved)

    return show_slice


def show_clicked_slice(request: gr.Request, event: gr.SelectData, name: Any) -> Update:
    """Show the slice that was clicked on the strip."""
    return localized(_showing("strip"))(request, event.index, name)


def _show(number: Any, name: Any, moved: str) -> Update:
    """Show another slice: its map, its numbers and its place on the strip."""
    opened = SHELF.get(name)
    if opened is None:
        return Update(alert_html(_(GONE)), result=gr.update(visible=False), name=None)
    explained = opened.explained
    wanted = int(number) if isinstance(number, int | float) else 1
    opened.current = index = min(max(wanted, 1), len(explained.study)) - 1
    return Update(
        strip=strip_html(explained, index, _),
        first=gr.skip() if moved == "list" else gr.update(value=index + 1),
        position=gr.skip() if moved == "slider" else index + 1,
        panel=panel_html(explained, index),
    )


def _saving(save: Save) -> Callable[[str | None], Iterator[tuple[Any, Any]]]:
    def save_study(name: str | None) -> Iterator[tuple[Any, Any]]:
        opened = SHELF.get(name)
        if opened is None:
            yield gr.update(visible=False), alert_html(_(GONE))
            return
        job = BackgroundJob(lambda progress: save(opened.explained, _giving_way(progress)), opened.closed)
        with contextlib.suppress(Cancelled):
            for step in job:
                yield gr.skip(), status_html(_how_far(step))
            saved = job.result()
            if not opened.closed.is_set():  # else the visitor has left while the last slice was drawn
                yield gr.update(value=saved, visible=True), notice_html(opened.explained)

    return save_study


def _how_far(step: Step | Waiting) -> str:
    if isinstance(step, Waiting):
        return _(OTHERS_FIRST)
    return _(LOOKING, number=step.done, count=step.total)


def _giving_way(progress: Progress) -> Callable[[int, int], None]:
    """Return what reports how many slices are done, and lets others pass after each."""

    def step(done: int, total: int) -> None:
        progress(done, total)
        LANE.give_way()

    return step
