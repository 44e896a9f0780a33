"""The page's section for a whole study: a slider through the slices, the strip, what to look at first, downloads."""

from collections.abc import Callable, Iterator
from html import escape
from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block

from brain_xai.methods import METHODS
from brain_xai.preprocess import UnreadableImage
from brain_xai.study import SeveralSeries, StudyExplanation, strip_html
from brain_xai.study.explain import KEPT, percent
from brain_xai.study.report import DISCLAIMER, EACH_SLICE, data_url
from brain_xai.study.volume import PLANES
from brain_xai.ui import studies
from brain_xai.ui.inputs import UserError, get_classifier
from brain_xai.ui.jobs import QUICK, SLOW
from brain_xai.ui.language import _, label, localized, translated
from brain_xai.ui.monitoring import count_refusal
from brain_xai.ui.privacy import KEPT_MINUTES
from brain_xai.ui.study_shelf import OpenStudy, Shelf
from brain_xai.unreadable import Series

TITLE = "A whole study: DICOM series or NIfTI volume"
UPLOAD = "Files of one series, a ZIP of them, or a .nii.gz"
HELP = (
    "Choose all DICOM files of one MR series, a ZIP of them, or one NIfTI file. Names and dates in the files are never "
    "read. Every slice is judged on its own. The files are deleted after 15 minutes."
)
GONE = "This study is deleted already. Choose the files again."
AUTOMATIC = "as scanned"
READING = "Reading the files …"
LOOKING = "{count} slices. The model looks at each …"
SEVERAL = "The files hold {count} series. Choose one below."
ONE_SERIES = "{number}: {count} slices, {plane}, {width} × {height}"
FACTS = "{count} slices, {plane}, {spacing} mm apart. Maps for {label}."
SHOWN = "Slice {number} of {count}: {numbers}"
SLICE_ALT = "Slice {number}"
MAP_ALT = "What speaks for and against {label} in slice {number}"
SAVE_TABLE, SAVE_REPORT, SAVE_MAP = "Save table (CSV)", "Save report (one page)", "Save map (NIfTI)"
FIRST = 8
STATE_SECONDS = 60 * KEPT_MINUTES
PRIVATE = {"api_visibility": "private", "preprocess": False}
SHELF = Shelf()


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


def add(page: gr.Blocks, checkpoint: Block | None = None) -> None:
    """Add the section to a page.

    Args:
        page: The page, in whose context this is called.
        checkpoint: The component in which the visitor chooses a model; None for the default one.
    """
    checkpoint = checkpoint or gr.State("default")
    with gr.Accordion(label(TITLE), open=False, elem_id="study"):
        about = gr.HTML(_help())
        with gr.Row():
            files = gr.File(label=label(UPLOAD), file_count="multiple", elem_id="study-files", height=150)
            with gr.Column():
                plane = gr.Dropdown(_planes(), value="", label=label("Plane"), elem_id="study-plane")
                methods = [(method.title, method.key) for method in METHODS.values()]
                method = gr.Dropdown(methods, value="grad_cam", label=label("Map"), elem_id="study-method")
        series = gr.Dropdown([], label=label("Series"), visible=False, elem_id="study-series")
        notice = gr.HTML(elem_id="study-notice")
        with gr.Column(visible=False, elem_id="study-result") as result:
            strip = gr.HTML(elem_id="study-strip")
            first = gr.Radio([], label=label("Most suspicious first"), elem_id="study-first")
            position = gr.Slider(1, 2, 1, step=1, label=label("Slice"), elem_id="study-position", buttons=[])
            panel = gr.HTML(elem_id="study-panel")
            with gr.Row():
                buttons = {
                    gr.Button(label(SAVE_TABLE), size="sm"): studies.save_table,
                    gr.Button(label(SAVE_REPORT), size="sm"): studies.save_report,
                    gr.Button(label(SAVE_MAP), size="sm"): studies.save_map,
                }
            saved = gr.File(label=label("Saved"), visible=False, interactive=False, elem_id="study-saved")
        name = gr.State(None, time_to_live=STATE_SECONDS, delete_callback=SHELF.remove)
    update = [notice, series, result, strip, first, position, panel, name]
    asked = [files, checkpoint, method, plane, series, name]
    opening = {"show_progress": "hidden", "trigger_mode": "multiple", **PRIVATE, **SLOW}
    files.change(localized(_choose), asked, update, **opening)
    for changed in (plane, method, series):
        changed.input(localized(_open), asked, update, **opening)
    moving = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last", **PRIVATE}
    for moved, how in ((position, "slider"), (first, "list")):
        moved.input(localized(_showing(how)), [moved, name], update, **moving)
    page.load(localized(load_study_section), None, [about, plane], queue=False, **PRIVATE)
    for button, save in buttons.items():
        button.click(localized(_saving(save)), name, [saved, notice], show_progress_on=saved, **PRIVATE, **QUICK)


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


def _open(
    files: Any, checkpoint: str, method: str, plane: str, series: int | None, name: str | None
) -> Iterator[Update]:
    """Read the files and answer for all slices, showing how far that is."""
    SHELF.remove(name)
    if not files:
        yield Update("", gr.update(visible=False), gr.update(visible=False), name=None)
        return
    yield Update(
        _status(_(READING)),
        series=gr.update(visible=False) if series is None else gr.skip(),
        result=gr.update(visible=False),
        name=None,
    )
    try:
        study = studies.read_uploaded_study(files, studies.Choice(plane or None, series))
        yield Update(_status(_(LOOKING, count=len(study))))
        classifier = get_classifier(checkpoint, allow_fallback=True)
        explained = studies.explain_uploaded_study(classifier, study, method, "suspected")
    except SeveralSeries as several:
        choices = [(_described(one), one.number) for one in several.series]
        shown = gr.update(choices=choices, value=None, visible=True)
        yield Update(_status(_(SEVERAL, count=len(choices))), series=shown)
        return
    except (UserError, UnreadableImage) as error:
        count_refusal()
        yield Update(_alert(translated(error.message if isinstance(error, UserError) else str(error))))
        return
    yield _opened(explained)


def _described(series: Series) -> str:
    width, height = series.size
    return _(ONE_SERIES, number=series.number, count=series.slices, plane=_(series.plane), width=width, height=height)


def _opened(explained: StudyExplanation) -> Update:
    opened = OpenStudy(explained)
    update = Update(
        _notice(explained),
        result=gr.update(visible=True),
        strip=strip_html(explained, opened.current, _),
        first=gr.update(choices=_first(explained), value=opened.current + 1),
        position=gr.update(maximum=max(len(explained.study), 2), value=opened.current + 1),
        panel=_panel(explained, opened.current),
        name=SHELF.put(opened),
    )
    opened.compute_ahead(KEPT)
    return update


def _showing(moved: str) -> Callable[[Any, str | None], Update]:
    def show_slice(number: Any, name: str | None) -> Update:
        return _show(number, name, moved)

    return show_slice


def _show(number: Any, name: str | None, moved: str) -> Update:
    """Show another slice: its map, its numbers and its place on the strip."""
    opened = SHELF.get(name)
    if opened is None:
        return Update(_alert(_(GONE)), result=gr.update(visible=False), name=None)
    explained = opened.explained
    opened.current = index = min(max(int(number or 1), 1), len(explained.study)) - 1
    return Update(
        strip=strip_html(explained, index, _),
        first=gr.skip() if moved == "list" else gr.update(value=index + 1),
        position=gr.skip() if moved == "slider" else index + 1,
        panel=_panel(explained, index),
    )


def _saving(save: Callable[[StudyExplanation], str]) -> Callable[[str | None], tuple[Any, Any]]:
    def save_study(name: str | None) -> tuple[Any, Any]:
        opened = SHELF.get(name)
        if opened is None:
            return gr.update(visible=False), _alert(_(GONE))
        return gr.update(value=save(opened.explained), visible=True), gr.skip()

    return save_study


def _first(explained: StudyExplanation) -> list[tuple[str, int]]:
    return [
        (f"{index + 1} ({percent(explained.suspicion(index))})", index + 1) for index in explained.highlights(FIRST)
    ]


def _notice(explained: StudyExplanation) -> str:
    study = explained.study
    spacing, target = f"{study.spacing[0]:.1f}", _(explained.text(explained.label))
    facts = _(FACTS, count=len(study), plane=_(study.plane), spacing=spacing, label=target)
    messages = [facts, _(EACH_SLICE), *(translated(warning.message) for warning in explained.warnings)]
    return f'<div role="status"><p><b>{_(DISCLAIMER)}</b></p><p>{escape(" ".join(messages))}</p></div>'


def _panel(explained: StudyExplanation, index: int) -> str:
    """Return a slice beside its map, with its probabilities and warnings. Nothing of it becomes a file."""
    explanation, prediction = explained.explanation(index), explained.predictions[index]
    warnings = "".join(f"<li>{escape(translated(warning.message))}</li>" for warning in prediction.warnings)
    number, numbers = index + 1, explained.numbers(index, _)
    said = escape(_(SHOWN, number=number, count=len(explained.study), numbers=numbers))
    described = escape(_(MAP_ALT, label=_(explained.text(explained.label)), number=number))
    alone = data_url(explanation.image(opacity=0, bar="none"))
    return (
        f'<p aria-live="polite"><b>{said}</b></p><ul>{warnings}</ul>'
        '<div style="display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start">'
        f'<img style="flex:1 1 280px;max-width:520px;min-width:0" alt="{_(SLICE_ALT, number=number)}" src="{alone}">'
        f'<img style="flex:1 1 280px;max-width:520px;min-width:0" src="{data_url(explanation.image())}" '
        f'alt="{described}"></div>'
    )


def _status(text: str) -> str:
    return f'<p role="status">{escape(text)}</p>'


def _alert(text: str) -> str:
    return f'<p role="alert" class="error">{escape(text)}</p>'
