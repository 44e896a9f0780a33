"""What the page and the endpoints do: check what comes in, ask the classifier, shape the answer."""

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from brain_xai.checkpoint import CheckpointError, allowed_checkpoints
from brain_xai.classifier import Classifier, Notice
from brain_xai.explain import METHODS, Explanation, MethodNotApplicable, explain
from brain_xai.overlay import overlay
from brain_xai.preprocess import UnreadableImage, read_image
from brain_xai.ui import models, texts
from brain_xai.ui.work import Work

# Fast enough to run by itself after an upload; the other methods wait for a click.
IMMEDIATE_METHOD = "grad_cam"
# Of full colour, where nobody has chosen another.
OPACITY = 0.7
METRICS_SHOWN = ("split", "seed", "validation", "test")

# An uploaded picture as gradio hands it over when its own decoder, which clips 16 bit and hides errors, is left out.
Upload = dict[str, Any] | None


class Refusal(gr.Error):
    """A sentence for the visitor, on the page and through the API; nothing that needs a stack trace in the log."""

    def __init__(self, sentence: str):
        super().__init__(sentence, print_exception=False)


# Endpoints


def predict(image: Upload, checkpoint: str = "default") -> dict:
    """Answer /predict."""
    start = time.perf_counter()
    classifier = _classifier(checkpoint)
    scan = _scan(image)
    prediction = classifier.predict(scan)
    height, width = classifier.preprocessing.size
    return {
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "checkpoint": asdict(prediction.checkpoint),
        "input": {"width": scan.width, "height": scan.height, "model_width": width, "model_height": height},
        "warnings": [asdict(warning) for warning in prediction.warnings],
        "seconds": _seconds_since(start),
    }


async def explain_scan(
    image: Upload, checkpoint: str = "default", method: str = "grad_cam", target: str | int = "predicted"
) -> tuple[Image.Image, str, dict]:
    """Answer /explain; a caller who cancels the job ends the work on the server, too."""
    stopped = threading.Event()
    work = Work(lambda progress: _explain_scan(image, checkpoint, method, target, progress), stopped)
    try:
        return await work.finished()
    finally:
        stopped.set()


def checkpoints() -> list[dict]:
    """Answer /checkpoints; one that cannot be loaded, or for which another answers, is left out."""
    listed = []
    for checkpoint in allowed_checkpoints():
        try:
            classifier = _classifier(checkpoint)
        except Refusal:
            continue
        if classifier.info.id != checkpoint:
            continue
        metrics = {key: classifier.metrics[key] for key in METRICS_SHOWN if key in classifier.metrics}
        listed.append(asdict(classifier.info) | {"label_names": list(classifier.label_names), "metrics": metrics})
    return listed


def _explain_scan(
    image: Upload, checkpoint: str, method: str, target: str | int, progress: Callable[[int, int], None]
) -> tuple[Image.Image, str, dict]:
    start = time.perf_counter()
    try:
        explanation = _explain(_classifier(checkpoint), _scan(image), method, target, progress)
    except MethodNotApplicable as reason:
        raise Refusal(str(reason)) from reason
    buffer = io.BytesIO()
    np.save(buffer, explanation.attribution)
    # Straight into the folder whose files gradio deletes; it would leave any other file where it is.
    attribution = save_bytes_to_cache(buffer.getvalue(), "attribution.npy", get_upload_folder())
    facts = {
        "method": explanation.method,
        "target": explanation.target,
        "label": explanation.label,
        "settings": explanation.settings,
        "quality": None,
        "warnings": [asdict(warning) for warning in explanation.prediction.warnings],
        "checkpoint": asdict(explanation.prediction.checkpoint),
        "seconds": _seconds_since(start),
    }
    return _drawn(explanation), attribution, facts


# The page


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
    shown: Any
    running: Any
    start: Any
    cancel: Any
    progress: Any


UNCHANGED = Shows(*[gr.skip()] * len(Shows._fields))
IDLE = {"running": None, "start": gr.update(visible=False), "cancel": gr.update(visible=False), "progress": ""}
READY = IDLE | {"start": gr.update(visible=True)}
NOTHING = IDLE | {"answer": gr.update(visible=False), "reasons": gr.update(visible=False), "shown": None}


def show(
    image: Upload, checkpoint: str, method: str, target: str, opacity: float, running: threading.Event | None
) -> Shows:
    """Show the answer and its map for a picture; a method that takes seconds only offers its button."""
    _stop(running)  # what is being computed answers the question before
    if not image:
        return UNCHANGED._replace(notice=texts.empty_result(), **NOTHING)
    if method != IMMEDIATE_METHOD:
        return UNCHANGED._replace(**READY)
    return _answer(image, checkpoint, method, target, opacity)


def show_new(image: Upload, checkpoint: str, opacity: float, running: threading.Event | None) -> tuple:
    """Start afresh with a new picture or checkpoint: method and class first, then what `show` shows."""
    try:
        labels = _classifier(checkpoint).label_names
    except Refusal:
        labels = ()
    choices = [(texts.PREDICTED, "predicted"), *((texts.label_text(label), label) for label in labels)]
    target = gr.update(choices=choices, value="predicted")
    return IMMEDIATE_METHOD, target, *show(image, checkpoint, IMMEDIATE_METHOD, "predicted", opacity, running)


def stand_in_line() -> Shows:
    """Say that a map is about to be computed, and offer to cancel it."""
    buttons = {"start": gr.update(visible=False), "cancel": gr.update(visible=True)}
    return UNCHANGED._replace(running=threading.Event(), progress=texts.WAITING, **buttons)


def show_stepwise(
    image: Upload, checkpoint: str, method: str, target: str, opacity: float, running: threading.Event | None
) -> Iterator[Shows]:
    """Show the progress of a method that takes seconds, then its map.

    Ends without one when `running` is set; closing the iterator, which gradio does when a visitor leaves, sets it.
    """
    if running is None:  # cancelled before it began
        return
    work = Work(lambda progress: _answer(image, checkpoint, method, target, opacity, progress), running)
    try:
        # A last step may reach the page after the visitor has cancelled, so steps touch nothing but the bar.
        for done, total in work:
            yield UNCHANGED._replace(progress=texts.progress(done, total))
        yield UNCHANGED._replace(progress="") if running.is_set() else work.result()
    finally:
        running.set()


def cancel(running: threading.Event | None) -> Shows:
    """Stop the map that is being computed; the one before stays."""
    _stop(running)
    return UNCHANGED._replace(**READY)


def redraw(shown: Explanation | None, opacity: float) -> tuple:
    """Draw the visitor's map again with another opacity: the overlay, and a notice where there is none any more."""
    if shown is None:
        return gr.skip(), texts.refusal(texts.MAP_EXPIRED)
    return _drawn(shown, opacity), gr.skip()


def about_model(checkpoint: str) -> str:
    """Describe a checkpoint in Markdown."""
    try:
        classifier = _classifier(checkpoint)
    except Refusal as refusal:
        return refusal.message
    return texts.about_model(classifier.info, classifier.metrics, classifier.notices)


def warm_up() -> None:
    """Import, fetch and measure what would otherwise make the first visitor wait for seconds."""
    models.look_at(allowed_checkpoints())
    try:
        classifier = _classifier("default")
    except Refusal:  # the page says so, and the other models work
        return
    try:
        explain(classifier, Image.new("L", (64, 64)), IMMEDIATE_METHOD)
    except MethodNotApplicable:
        classifier.predict(Image.new("L", (64, 64)))


def _answer(
    image: Upload,
    checkpoint: str,
    method: str,
    target: str,
    opacity: float,
    progress: Callable[[int, int], None] | None = None,
) -> Shows:
    try:
        classifier, scan = _classifier(checkpoint), _scan(image)
        explanation = _explain(classifier, scan, method, target, progress)
    except Refusal as refusal:
        # Nothing of the picture before may stay beside the sentence.
        return UNCHANGED._replace(notice=texts.refusal(refusal.message), **NOTHING)
    except MethodNotApplicable as reason:
        prediction = classifier.predict(scan)
        notice = texts.notices([Notice("method_not_applicable", str(reason)), *prediction.warnings])
        picture, caption, explanation = classifier.prepare(scan).view, "", None
    else:
        prediction, notice = explanation.prediction, texts.notices(explanation.prediction.warnings)
        picture = _drawn(explanation, opacity)
        caption = texts.caption(METHODS[method].title, explanation.label)
    return Shows(
        notice=notice,
        answer=gr.update(visible=True),
        reasons=gr.update(visible=True),
        probabilities={texts.label_text(label): p for label, p in prediction.probabilities.items()},
        accuracy=texts.accuracy(classifier.metrics),
        overlay=picture,
        caption=caption,
        shown=explanation,
        **IDLE,
    )


# Both


def _stop(running: threading.Event | None) -> None:
    if running:
        running.set()


def _classifier(checkpoint: str) -> Classifier:
    allowed = allowed_checkpoints()
    if checkpoint == "default":
        checkpoint = allowed[0]
    if checkpoint not in allowed:
        raise Refusal(texts.unknown_checkpoint(allowed))
    try:
        return models.classifier_of(checkpoint)
    except CheckpointError as error:
        print(f"{checkpoint}: {error}", file=sys.stderr)  # for the maintainer; it may name folders
        raise Refusal(texts.CHECKPOINT_UNAVAILABLE) from error


def _scan(image: Upload) -> Image.Image:
    path = (image or {}).get("path")
    if not path:
        raise Refusal(texts.NO_PICTURE)
    if not Path(path).is_file():
        raise Refusal(texts.PICTURE_EXPIRED)
    try:
        return read_image(path)
    except UnreadableImage as error:
        raise Refusal(str(error)) from error


def _explain(
    classifier: Classifier,
    scan: Image.Image,
    method: str,
    target: str | int,
    progress: Callable[[int, int], None] | None,
) -> Explanation:
    if str(method) not in METHODS:
        raise Refusal(texts.unknown_method(list(METHODS)))
    try:
        return explain(classifier, scan, method, target, progress)
    except MethodNotApplicable:
        raise
    except ValueError as error:  # the target is no class of this checkpoint
        raise Refusal(str(error)) from error


def _drawn(explanation: Explanation, opacity: float = OPACITY) -> Image.Image:
    unit = METHODS[explanation.method].unit
    return overlay(explanation.view, explanation.attribution, explanation.scale, opacity, unit)


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
