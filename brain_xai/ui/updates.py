"""What the page shows: an answer, a map, a map that grows, a covered scan, or why there is none of them."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import gradio as gr
import numpy as np
from PIL import Image

from brain_xai.classifier import Classifier
from brain_xai.explanation import Cancelled, Explanation, color_scale
from brain_xai.methods import METHODS
from brain_xai.overlay import has_outline
from brain_xai.summary import ONLY_AGAINST, summarize
from brain_xai.ui import contrary, covering, pace, texts, wording
from brain_xai.ui.case_strip import truth_html
from brain_xai.ui.inputs import UserError, explain_or_refuse, get_classifier, read_upload
from brain_xai.ui.jobs import BackgroundJob, Progress, Waiting
from brain_xai.ui.language import _
from brain_xai.ui.monitoring.monitor import count_refusal
from brain_xai.ui.session import PageUpdate, Question, Session
from brain_xai.ui.viewer import map_html, scan_html

# In forward passes: methods that cost no more are drawn at once, others in a job that shows its progress.
MAX_IMMEDIATE_COST = 12
# A map that grows is sent no more often.
PREVIEW_SECONDS = 0.4

HIDDEN, SHOWN = gr.update(visible=False), gr.update(visible=True)
NO_JOB = {"progress": "", "cancel": HIDDEN}
NO_GALLERY = {"gallery": gr.update(value=None, visible=False), "gallery_notes": ""}
NOTHING_COVERED = {"covered": "", "uncover": HIDDEN}
NOTHING_BESIDE = {**NO_JOB, **NO_GALLERY, **NOTHING_COVERED}


def asked(question: Question) -> tuple[Classifier, Image.Image]:
    """Return the model and the scan, gray, that a question is about; raises `UserError`."""
    classifier = get_classifier(question.checkpoint, allow_fallback=True)
    return classifier, read_upload(question.session.image)


def refusal(session: Session, error: UserError) -> PageUpdate:
    """Show what went wrong, and nothing of the previous image beside it."""
    count_refusal()
    session.explanation = session.asked = None
    return PageUpdate(session, notice=texts.error(error.message), anyway=HIDDEN, result=HIDDEN, **NOTHING_BESIDE)


def explained(
    classifier: Classifier, scan: Image.Image, method: str, target: str, progress: Progress | None = None
) -> Explanation:
    """Return a map, and learn how long it takes; raises `UserError`."""
    with pace.timed(classifier, method):
        return explain_or_refuse(classifier, scan, method, target, progress)


def possible(classifier: Classifier, method: str) -> str:
    """Return a method if it can work on a model, else one that can and is drawn at once."""
    keys = wording.usable(classifier)
    return method if method in keys else next(filter(is_quick, keys))


def method_list(classifier: Classifier, chosen: str | None = None) -> dict:
    """Return the methods to choose from, with quality and time; with the chosen one where that may have changed."""
    choices = wording.method_choices(classifier, {key: pace.expected(classifier, key) for key in METHODS})
    return gr.update(choices=choices) if chosen is None else gr.update(choices=choices, value=chosen)


def is_quick(method: str) -> bool:
    """Return whether a method is drawn at once."""
    return method in METHODS and METHODS[method].forward_passes <= MAX_IMMEDIATE_COST


def answered(question: Question, classifier: Classifier, scan: Image.Image) -> PageUpdate:
    """Show an answer, its warnings above it; that to an image that is no brain MRI only if the visitor insists."""
    session, prediction = question.session, question.session.explanation.prediction
    codes = {warning.code for warning in prediction.warnings}
    refused = "not_brain_mri" in codes and not session.accepted
    base = PageUpdate(
        session,
        live=_(texts.REFUSED) if refused else wording.sentence(classifier, prediction),
        notice="",
        warnings=wording.warnings_html(prediction.warnings),
        anyway=gr.update(visible=refused),
        result=SHOWN,
        quiz=HIDDEN,
        truth=truth_html(session.case, prediction, session.guess) if session.case else "",
        scan=panel(question, scan),
        **NOTHING_BESIDE,
    )
    if refused:
        return base._replace(answer=HIDDEN, reasons=HIDDEN, overlay="", scan=scan_html(question, None, scan, ""))
    rows = wording.rows(prediction)
    suspect = wording.strongest_tumor(classifier, prediction) if "evidence_against" in codes else None
    update = base._replace(
        answer=SHOWN,
        sentence=wording.answer_html(classifier, prediction) + wording.bars(prediction, rows),
        target=gr.update(choices=rows, value=prediction.label),
        show_box=gr.update(visible=bool(session.case and session.case.box)),
        doubt=HIDDEN if suspect is None else gr.update(visible=True, value=texts.doubt(suspect)),
    )
    shown = map_shown(replace(question, method=session.explanation.method), classifier)
    return update._replace(reasons=SHOWN, overlay=shown.overlay, caption=shown.caption)


def map_shown(question: Question, classifier: Classifier) -> PageUpdate:
    """Show the visitor's map, with the words below it."""
    session = question.session
    caption = words(question, classifier)
    drawn = map_html(question, session.explanation, texts.plain(caption))
    return PageUpdate(session, overlay=drawn, caption=caption, reasons=SHOWN)


def words(question: Question, classifier: Classifier) -> str:
    """Return what is said below the visitor's map, as HTML."""
    explanation = question.session.explanation
    others = [other for other in question.session.maps.values() if other.target == explanation.target]
    summary = summarize(explanation, others, classifier)
    sentence = summary.text(_)
    if where := contrary.where(explanation):
        if not (summary.areas or summary.against):
            sentence = _(ONLY_AGAINST)  # what speaks against it may be pale, but it is why there is a warning
        sentence = f"{sentence} {_(texts.AGAINST, where=_(where))}"
    if question.outline and not has_outline(explanation):
        sentence = f"{sentence} {_(texts.NO_OUTLINE)}"
    measured = ""  # it holds for the class that was recognized, and says nothing about another one
    if explanation.label == explanation.prediction.label:
        measured = wording.how_good(classifier, explanation.method, explanation.label)
    return wording.caption_html(METHODS[explanation.method], explanation.label, sentence, measured)


def drawn(
    question: Question, classifier: Classifier, scan: Image.Image, stop_event: threading.Event
) -> Iterator[PageUpdate]:
    """Yield the map that is asked for: at once, or as it grows."""
    session = question.session
    ready = session.maps.get(question.method)
    try:
        if ready is not None and ready.label == question.target:
            explanation = ready
        elif is_quick(question.method):
            explanation = explained(classifier, scan, question.method, question.target or "predicted")
        else:
            explanation = yield from _grown(question, classifier, scan, stop_event)
    except UserError as error:
        if not stop_event.is_set():
            yield refusal(session, error)
        return
    except Cancelled:
        return
    if stop_event.is_set():  # the session may be about another image by now
        return
    session.explanation = explanation
    yield map_shown(question, classifier)._replace(**NO_JOB)


def _grown(
    question: Question, classifier: Classifier, scan: Image.Image, stop_event: threading.Event
) -> Generator[PageUpdate, None, Explanation]:
    """Yield the progress of a map that takes long, with the map so far in its own place; return it."""
    session, sent = question.session, 0.0

    def work(progress: Progress) -> Explanation:
        return explained(classifier, scan, question.method, question.target or "predicted", progress)

    seconds = pace.expected(classifier, question.method)
    yield PageUpdate(session, progress=texts.progress(0, 1, seconds), cancel=SHOWN)
    start = time.monotonic()
    job = BackgroundJob(work, stop_event, seconds)
    for step in job:
        if stop_event.is_set():
            raise Cancelled
        if isinstance(step, Waiting):
            start = time.monotonic()
            yield PageUpdate(progress=texts.waiting(*step))
        elif time.monotonic() - sent >= PREVIEW_SECONDS:
            sent = time.monotonic()
            done = max(step.done / step.total, 0.1)  # the first steps tell little
            left = max(seconds, (sent - start) / done) * (1 - done)
            yield _preview(question, classifier, step.preview)._replace(
                progress=texts.progress(step.done, step.total, left)
            )
    return job.result()


def _preview(question: Question, classifier: Classifier, attribution: np.ndarray | None) -> PageUpdate:
    """Return the map so far, in the place of the one before."""
    last, method = question.session.explanation, METHODS[question.method]
    if attribution is None or last is None:
        return PageUpdate()
    partial = replace(
        last,
        method=method.key,
        attribution=attribution,
        scale=color_scale(classifier, method.key),
        unit=method.unit,
        signed=method.signed,
    )
    return PageUpdate(overlay=map_html(question, partial, _(texts.SO_FAR)))


def panel(question: Question, scan: Image.Image) -> str:
    """Return the panel of the scan, on which spots can be covered."""
    return scan_html(question, question.session.explanation, scan, "")


def covered(question: Question, region: Callable[[Classifier, Image.Image], np.ndarray | None]) -> PageUpdate:
    """Cover a region of the scan, if there is one, and show what the model answers for the rest."""
    session = question.session
    image, explanation = session.image, session.explanation
    if explanation is None:
        return PageUpdate(session, notice=texts.notice(texts.MAP_EXPIRED))
    try:
        classifier, scan = asked(question)
    except UserError as error:
        return refusal(session, error)
    mask = region(classifier, scan)
    if mask is None:
        return PageUpdate(session, covered=f"<p>{_(texts.NO_OUTLINE)}</p>")
    words, rows = covering.ask(classifier, scan, mask, explanation.prediction)
    if session.image is not image:  # the visitor has chosen another one by now
        return PageUpdate(session)
    session.covered = mask
    return PageUpdate(session, covered=words, uncover=SHOWN, target=gr.update(choices=rows), scan=panel(question, scan))
