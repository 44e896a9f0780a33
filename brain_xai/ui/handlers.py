"""What the page does: ask the classifier, and say what changes on the page."""

import base64
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from brain_xai.checkpoint.catalog import allowed_checkpoints
from brain_xai.classifier import Classifier, PredictionWarning
from brain_xai.explanation import Explanation, MethodNotApplicable, color_scale, explain, strongest_channels
from brain_xai.methods import METHODS
from brain_xai.overlay import AttributionMap, draw_overlay
from brain_xai.ui import hub_follower, texts
from brain_xai.ui.comparison import compare
from brain_xai.ui.inputs import Refusal, Upload, chosen_classifier, drawn, explained, measured_quality, uploaded_scan
from brain_xai.ui.jobs import Progress, Work

# The map that is drawn by itself after an upload.
FIRST_METHOD = "grad_cam"
# In forward passes: methods that cost no more are drawn as soon as they are chosen, others wait for a click.
IMMEDIATE_COST = 12


class Shows(NamedTuple):
    """All that a handler changes on the page, in the order of the page's outputs.

    `shown` is the visitor's map, `running` the event that stops the one being computed.
    """

    notice: Any
    answer: Any
    reasons: Any
    probabilities: Any
    accuracy: Any
    overlay: Any
    caption: Any
    gallery: Any
    gallery_notes: Any
    shown: Any
    running: Any
    start: Any
    cancel: Any
    progress: Any


UNCHANGED = Shows(*[gr.skip()] * len(Shows._fields))
IDLE = {"running": None, "start": gr.update(visible=False), "cancel": gr.update(visible=False), "progress": ""}
NO_GALLERY = {"gallery": gr.update(value=None, visible=False), "gallery_notes": ""}
NOTHING = IDLE | NO_GALLERY | {"answer": gr.update(visible=False), "reasons": gr.update(visible=False), "shown": None}


def show(
    image: Upload,
    checkpoint: str,
    method: str,
    target: str,
    opacity: float,
    outline: bool,
    running: threading.Event | None,
) -> Shows:
    """Show the answer and its map for a picture; a method that takes seconds only offers its button."""
    _stop(running)  # what is being computed answers the question before
    if not image:
        return UNCHANGED._replace(notice=texts.empty_result(), **NOTHING)
    if _takes_long(method):
        return UNCHANGED._replace(**_ready(method))
    return _answer(image, checkpoint, method, target, opacity, outline)


def show_new(image: Upload, checkpoint: str, opacity: float, outline: bool, running: threading.Event | None) -> tuple:
    """Start afresh with a new picture or checkpoint: method and class first, then what `show` shows."""
    try:
        labels = chosen_classifier(checkpoint, allow_fallback=True).label_names
    except Refusal:
        labels = ()
    choices = [(texts.PREDICTED, "predicted"), *((texts.label_text(label), label) for label in labels)]
    target = gr.update(choices=choices, value="predicted")
    shows = show(image, checkpoint, FIRST_METHOD, "predicted", opacity, outline, running)
    return FIRST_METHOD, target, *shows._replace(**NO_GALLERY)


def stand_in_line() -> Shows:
    """Say that maps are about to be computed, and offer to cancel it."""
    buttons = {"start": gr.update(visible=False), "cancel": gr.update(visible=True)}
    return UNCHANGED._replace(running=threading.Event(), progress=texts.WAITING, **buttons)


def show_stepwise(
    image: Upload,
    checkpoint: str,
    method: str,
    target: str,
    opacity: float,
    outline: bool,
    running: threading.Event | None,
) -> Iterator[Shows]:
    """Show the progress of a method that takes seconds, the map as far as it is known, then the map."""
    yield from _stepwise(
        lambda progress: _answer(image, checkpoint, method, target, opacity, outline, progress), running
    )


def show_comparison(
    image: Upload,
    checkpoint: str,
    method: str,
    target: str,
    opacity: float,
    outline: bool,
    running: threading.Event | None,
) -> Iterator[Shows]:
    """Show the progress of every method in turn, then all maps side by side; the chosen `method` stays as it is."""
    yield from _stepwise(
        lambda progress: _side_by_side(image, checkpoint, method, target, opacity, outline, progress), running
    )


def cancel(method: str, running: threading.Event | None) -> Shows:
    """Stop the map that is being computed; the one before stays."""
    _stop(running)
    return UNCHANGED._replace(**_ready(method))


def redraw(shown: Explanation | None, opacity: float, outline: bool) -> tuple:
    """Draw the visitor's map again in another way: the overlay, and a notice where there is none any more."""
    if shown is None:
        return gr.skip(), texts.refusal(texts.MAP_EXPIRED)
    return drawn(shown, opacity, outline), gr.skip()


def about_model(checkpoint: str) -> str:
    """Describe a checkpoint in Markdown."""
    try:
        classifier = chosen_classifier(checkpoint, allow_fallback=True)
    except Refusal as refusal:
        return refusal.message
    return texts.about_model(classifier.info, classifier.metrics, classifier.notices)


def warm_up() -> None:
    """Import, fetch and measure what would otherwise make the first visitor wait for seconds."""
    hub_follower.prefetch(allowed_checkpoints())
    try:
        classifier = chosen_classifier("default", allow_fallback=True)
    except Refusal:  # the page says so, and the other models work
        return
    try:
        explain(classifier, Image.new("L", (64, 64)), FIRST_METHOD)
    except MethodNotApplicable:
        classifier.predict(Image.new("L", (64, 64)))


def _stepwise(function: Callable[[Progress], Shows], running: threading.Event | None) -> Iterator[Shows]:
    """Show the progress of work, then its result.

    Ends without one when `running` is set; closing the iterator, which gradio does when a visitor leaves, sets it.
    """
    if running is None:  # cancelled before it began
        return
    work = Work(function, running)
    try:
        # A last step may reach the page after the visitor has cancelled, so steps touch nothing but the bar.
        for done, total, preview in work:
            yield UNCHANGED._replace(progress=texts.progress(done, total, preview))
        yield UNCHANGED._replace(progress="") if running.is_set() else work.result()
    finally:
        running.set()


def _answer(
    image: Upload,
    checkpoint: str,
    method: str,
    target: str,
    opacity: float,
    outline: bool,
    progress: Progress | None = None,
) -> Shows:
    try:
        classifier, scan = chosen_classifier(checkpoint, allow_fallback=True), uploaded_scan(image)
        watched = progress and _with_preview(progress, classifier, scan, method, opacity)
        explanation = explained(classifier, scan, method, target, watched)
    except Refusal as refusal:
        # Nothing of the picture before may stay beside the sentence.
        return UNCHANGED._replace(notice=texts.refusal(refusal.message), **NOTHING)
    except MethodNotApplicable as reason:
        prediction = classifier.predict(scan)
        notice = texts.notices([PredictionWarning("method_not_applicable", str(reason)), *prediction.warnings])
        picture, caption, explanation = classifier.prepare(scan).view, "", None
    else:
        prediction, notice = explanation.prediction, texts.notices(explanation.prediction.warnings)
        picture = drawn(explanation, opacity, outline)
        caption = texts.caption(METHODS[method], explanation.label, measured_quality(classifier, method))
    # The strongest channels take the place of maps side by side, and of what was said about those.
    channels = _channels(classifier, scan) if method == "layer_activation" and explanation else None
    return Shows(
        notice=notice,
        answer=gr.update(visible=True),
        reasons=gr.update(visible=True),
        probabilities={texts.heading(label): p for label, p in prediction.probabilities.items()},
        accuracy=texts.accuracy(classifier.metrics),
        overlay=picture,
        caption=caption,
        gallery=channels or gr.skip(),
        gallery_notes="" if channels else gr.skip(),
        shown=explanation,
        **IDLE,
    )


def _side_by_side(
    image: Upload, checkpoint: str, method: str, target: str, opacity: float, outline: bool, progress: Progress
) -> Shows:
    try:
        classifier = chosen_classifier(checkpoint, allow_fallback=True)
        comparison = compare(classifier, uploaded_scan(image), target, progress)
    except Refusal as refusal:
        return UNCHANGED._replace(notice=texts.refusal(refusal.message), **NOTHING)
    pictures = [
        (
            drawn(explanation, opacity, outline),
            texts.short_caption(
                METHODS[explanation.method], explanation.label, measured_quality(classifier, explanation.method)
            ),
        )
        for explanation in comparison.explanations
    ]
    label = texts.gallery_label(comparison.explanations[0].label)
    return UNCHANGED._replace(
        gallery=gr.update(value=pictures, label=label, visible=True),
        gallery_notes=texts.not_applicable(comparison.not_applicable),
        **_ready(method),
    )


def _channels(classifier: Classifier, scan: Image.Image) -> dict:
    """Return what the gallery shows beside the mean: what each of the strongest channels reacts to."""
    channels, method = strongest_channels(classifier, scan), METHODS["layer_activation"]
    scale = color_scale(classifier, method.key)
    pictures = [
        (
            draw_overlay(AttributionMap(channels.view, activation, scale, method.unit, signed=False)),
            texts.channel_caption(number),
        )
        for activation, number in zip(channels.maps, channels.channels, strict=True)
    ]
    return gr.update(value=pictures, label=texts.CHANNELS_LABEL, visible=True)


def _with_preview(
    progress: Progress, classifier: Classifier, scan: Image.Image, method: str, opacity: float
) -> Progress:
    """Draw what is known of a map before it is passed on, small enough to travel with the progress bar."""
    view = classifier.prepare(scan).view

    def step(done: int, total: int, preview: np.ndarray | None = None) -> None:
        progress(done, total, None if preview is None else _embedded(picture_of(preview)))

    def picture_of(attribution: np.ndarray) -> Image.Image:
        unit, signed = METHODS[method].unit, METHODS[method].signed
        return draw_overlay(AttributionMap(view, attribution, color_scale(classifier, method), unit, signed), opacity)

    return step


def _embedded(picture: Image.Image) -> str:
    """Return a picture as a data address: it goes straight to the visitor and is never a file here."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _takes_long(method: str) -> bool:
    return method in METHODS and METHODS[method].forward_passes > IMMEDIATE_COST


def _ready(method: str) -> dict:
    """Nothing is being computed; a method that takes long offers its button."""
    return IDLE | {"start": gr.update(visible=_takes_long(method))}


def _stop(running: threading.Event | None) -> None:
    if running:
        running.set()
