"""What each event changes on the page."""

import base64
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from brain_xai.checkpoint.catalog import allowed_checkpoints
from brain_xai.classifier import Classifier, Prediction, PredictionWarning
from brain_xai.explanation import Explanation, MethodNotApplicable, color_scale, explain, strongest_channels
from brain_xai.methods import METHODS
from brain_xai.overlay import AttributionMap, draw_overlay
from brain_xai.ui import hub_follower, texts
from brain_xai.ui.inputs import (
    Upload,
    UserError,
    compare_methods,
    explain_or_refuse,
    get_classifier,
    measured_quality,
    read_upload,
)
from brain_xai.ui.jobs import BackgroundJob, Progress

# The map that is drawn without being asked for, after an upload.
FIRST_METHOD = "grad_cam"
OPACITY = 0.7
# In forward passes: methods that cost no more are drawn as soon as they are chosen, others wait for a click.
MAX_IMMEDIATE_COST = 12


@dataclass(frozen=True)
class Question:
    """What a visitor asks; the fields are named after components of the page.

    `stop_event` stops the map that is being computed for this visitor, None if there is none.
    """

    image: Upload
    checkpoint: str = "default"
    method: str = FIRST_METHOD
    target: str | int = "predicted"
    opacity: float = OPACITY
    outline: bool = False
    stop_event: threading.Event | None = None


class PageUpdate(NamedTuple):
    """Everything a handler can change; the fields are named after components of the page. By default nothing changes.

    `current_explanation` is the map the visitor sees, `stop_event` stops the one that is being computed.
    """

    notice: Any = gr.skip()
    answer: Any = gr.skip()
    probabilities: Any = gr.skip()
    accuracy: Any = gr.skip()
    reasons: Any = gr.skip()
    overlay: Any = gr.skip()
    caption: Any = gr.skip()
    method: Any = gr.skip()
    target: Any = gr.skip()
    gallery: Any = gr.skip()
    gallery_notes: Any = gr.skip()
    current_explanation: Any = gr.skip()
    stop_event: Any = gr.skip()
    start: Any = gr.skip()
    cancel: Any = gr.skip()
    progress: Any = gr.skip()


NO_JOB = {"stop_event": None, "start": gr.update(visible=False), "cancel": gr.update(visible=False), "progress": ""}
NO_GALLERY = {"gallery": gr.update(value=None, visible=False), "gallery_notes": ""}
NO_ANSWER = {
    **NO_JOB,
    **NO_GALLERY,
    "answer": gr.update(visible=False),
    "reasons": gr.update(visible=False),
    "current_explanation": None,
}


def on_new_image(question: Question) -> PageUpdate:
    """Answer for a new image or checkpoint: the first method, the predicted class, no gallery."""
    try:
        labels = get_classifier(question.checkpoint, allow_fallback=True).label_names
    except UserError:
        labels = ()
    choices = [(texts.PREDICTED, "predicted"), *((texts.label_text(label), label) for label in labels)]
    update = on_new_choice(replace(question, method=FIRST_METHOD, target="predicted"))
    # Only where it changes: the visitor may have chosen another method before this answer arrives.
    method = gr.skip() if question.method == FIRST_METHOD else FIRST_METHOD
    return update._replace(method=method, target=gr.update(choices=choices, value="predicted"), **NO_GALLERY)


def on_new_choice(question: Question) -> PageUpdate:
    """Answer for another method or class; a method that takes seconds only offers its button."""
    _stop(question.stop_event)  # the running job belongs to the previous question
    if not question.image:
        return PageUpdate(notice=texts.empty_result(), **NO_ANSWER)
    if _takes_long(question.method):
        return PageUpdate(**_idle(question.method))
    return _explain(question)


def show_waiting() -> PageUpdate:
    """Show that maps are about to be computed, and offer to cancel that."""
    return PageUpdate(
        stop_event=threading.Event(),
        start=gr.update(visible=False),
        cancel=gr.update(visible=True),
        progress=texts.WAITING,
    )


def draw_slow_map(question: Question) -> Iterator[PageUpdate]:
    """Yield the progress of a method that takes seconds, with a preview of its map, and then the map."""
    yield from _run(lambda progress: _explain(question, progress), question.stop_event)


def draw_all_maps(question: Question) -> Iterator[PageUpdate]:
    """Yield the progress of all methods, and then their maps side by side; the chosen method stays as it is."""
    yield from _run(lambda progress: _compare(question, progress), question.stop_event)


def on_cancel(method: str, stop_event: threading.Event | None) -> PageUpdate:
    """Stop the map that is being computed; the previous one stays."""
    _stop(stop_event)
    return PageUpdate(**_idle(method))


def redraw(explanation: Explanation | None, opacity: float, outline: bool) -> PageUpdate:
    """Draw the visitor's map again with other settings; it may have been deleted in the meantime."""
    if explanation is None:
        return PageUpdate(notice=texts.error(texts.MAP_EXPIRED))
    return PageUpdate(overlay=draw_overlay(explanation, opacity, outline))


def describe_model(checkpoint: str) -> str:
    """Return a description of a checkpoint in Markdown."""
    try:
        classifier = get_classifier(checkpoint, allow_fallback=True)
    except UserError as error:
        return error.message
    return texts.about_model(classifier.info, classifier.metrics, classifier.warnings)


def warm_up() -> None:
    """Import, download and measure now what would otherwise keep the first visitor waiting for seconds."""
    hub_follower.prefetch(allowed_checkpoints())
    try:
        classifier = get_classifier("default", allow_fallback=True)
    except UserError:  # the page shows it, and the other models work
        return
    image = Image.new("L", (64, 64))
    try:
        explain(classifier, image, FIRST_METHOD)
    except MethodNotApplicable:
        classifier.predict(image)


def _run(work: Callable[[Progress], PageUpdate], stop_event: threading.Event | None) -> Iterator[PageUpdate]:
    """Yield the progress of some work, then its result, unless `stop_event` is set before.

    Gradio closes the iterator when a visitor leaves; this sets the event, too.
    """
    if stop_event is None:  # cancelled before it began
        return
    job = BackgroundJob(work, stop_event)
    try:
        # A last step may reach the page after the visitor has cancelled, so steps change nothing but the bar.
        for done, total, preview in job:
            yield PageUpdate(progress=texts.progress(done, total, preview))
        yield PageUpdate(progress="") if stop_event.is_set() else job.result()
    finally:
        stop_event.set()


def _explain(question: Question, progress: Progress | None = None) -> PageUpdate:
    """Return the answer with its map."""
    try:
        classifier = get_classifier(question.checkpoint, allow_fallback=True)
        scan = read_upload(question.image)
    except UserError as error:
        return _refuse(error)
    if progress:
        progress = _with_preview(progress, classifier, scan, question)
    try:
        explanation = explain_or_refuse(classifier, scan, question.method, question.target, progress)
    except UserError as error:
        return _refuse(error)
    except MethodNotApplicable as reason:
        return _predict_only(classifier, scan, str(reason))
    # The strongest channels take the place of a comparison and of its notes.
    channels = _channels(classifier, scan) if question.method == "layer_activation" else {}
    quality = measured_quality(classifier, question.method)
    return _answer(classifier, explanation.prediction)._replace(
        overlay=draw_overlay(explanation, question.opacity, question.outline),
        caption=texts.caption(METHODS[question.method], explanation.label, quality),
        current_explanation=explanation,
        **channels,
    )


def _predict_only(classifier: Classifier, scan: Image.Image, reason: str) -> PageUpdate:
    """Return the answer without a map, and why there is none."""
    prediction = classifier.predict(scan)
    warnings = [PredictionWarning("method_not_applicable", reason), *prediction.warnings]
    return _answer(classifier, prediction)._replace(
        notice=texts.warnings(warnings),
        overlay=classifier.prepare(scan).view,
        caption="",
        current_explanation=None,
    )


def _answer(classifier: Classifier, prediction: Prediction) -> PageUpdate:
    return PageUpdate(
        notice=texts.warnings(prediction.warnings),
        answer=gr.update(visible=True),
        probabilities={texts.heading(label): p for label, p in prediction.probabilities.items()},
        accuracy=texts.trust(prediction.label, classifier.metrics),
        reasons=gr.update(visible=True),
        **NO_JOB,
    )


def _refuse(error: UserError) -> PageUpdate:
    """Show what went wrong, and nothing of the previous image beside it."""
    return PageUpdate(notice=texts.error(error.message), **NO_ANSWER)


def _compare(question: Question, progress: Progress) -> PageUpdate:
    """Return the maps of all methods."""
    try:
        classifier = get_classifier(question.checkpoint, allow_fallback=True)
        comparison = compare_methods(classifier, read_upload(question.image), question.target, progress)
    except UserError as error:
        return _refuse(error)
    maps = []
    for explanation in comparison.explanations:
        quality = measured_quality(classifier, explanation.method)
        caption = texts.short_caption(METHODS[explanation.method], explanation.label, quality)
        maps.append((draw_overlay(explanation, question.opacity, question.outline), caption))
    label = texts.gallery_label(comparison.explanations[0].label)
    return PageUpdate(
        gallery=gr.update(value=maps, label=label, visible=True),
        gallery_notes=texts.not_applicable(comparison.not_applicable),
        **_idle(question.method),
    )


def _channels(classifier: Classifier, scan: Image.Image) -> dict:
    """Return the gallery shown with the mean activation: what each of the strongest channels reacts to."""
    channels, method = strongest_channels(classifier, scan), METHODS["layer_activation"]
    scale, place = color_scale(classifier, method.key), (channels.original, channels.part)
    maps = [
        (
            draw_overlay(AttributionMap(channels.view, activation, scale, method.unit, False, *place)),
            texts.channel_caption(number),
        )
        for activation, number in zip(channels.maps, channels.channels, strict=True)
    ]
    return {"gallery": gr.update(value=maps, label=texts.CHANNELS_LABEL, visible=True), "gallery_notes": ""}


def _with_preview(progress: Progress, classifier: Classifier, scan: Image.Image, question: Question) -> Progress:
    """Return a `progress` that draws the map so far, small enough to be sent with the progress bar."""
    prepared, method = classifier.prepare(scan), METHODS.get(question.method)

    def step(done: int, total: int, attribution: np.ndarray | None = None) -> None:
        if attribution is None:
            return progress(done, total)
        scale = color_scale(classifier, method.key)
        place = (prepared.original, prepared.part)
        partial = AttributionMap(prepared.view, attribution, scale, method.unit, method.signed, *place)
        return progress(done, total, _data_url(draw_overlay(partial, question.opacity)))

    return step


def _data_url(image: Image.Image) -> str:
    """Return an image as a data URL: it goes straight to the visitor and is never a file on the server."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _takes_long(method: str) -> bool:
    return method in METHODS and METHODS[method].forward_passes > MAX_IMMEDIATE_COST


def _idle(method: str) -> dict:
    """Return the state without a running job, in which a method that takes long offers its button."""
    return NO_JOB | {"start": gr.update(visible=_takes_long(method))}


def _stop(stop_event: threading.Event | None) -> None:
    if stop_event:
        stop_event.set()
