"""What each event changes on the page."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import gradio as gr

from brain_xai.checkpoint.catalog import allowed_checkpoints
from brain_xai.explanation import Cancelled
from brain_xai.ui import about, compare, covering, hub_follower, measured, memory, texts, updates, wording
from brain_xai.ui.case_strip import served_cases, strip_html
from brain_xai.ui.cases import Case, verdicts
from brain_xai.ui.inputs import Upload, UserError, get_classifier, read_upload
from brain_xai.ui.language import _
from brain_xai.ui.monitoring.monitor import count_answer
from brain_xai.ui.session import FIRST_METHOD, PageUpdate, Question, Session
from brain_xai.ui.updates import HIDDEN, NO_JOB, NOTHING_BESIDE, NOTHING_COVERED, SHOWN
from brain_xai.ui.viewer import scan_html

Updates = Iterator[PageUpdate]


def on_upload(question: Question, image: Upload) -> Updates:
    """Answer for the visitor's own image."""
    question.session.show(image)
    yield from on_question(question)


def on_case(question: Question, case: Case | None) -> Updates:
    """Show a case; one whose truth is known asks for a guess before the model answers."""
    session = question.session
    if case is None:
        return
    session.show({"path": case.file}, case)
    if not case.label:
        yield from on_question(question)
        return
    try:
        classifier, scan = updates.asked(question)
    except UserError as error:
        yield updates.refusal(session, error)
        return
    yield PageUpdate(
        session,
        notice="",
        warnings="",
        result=SHOWN,
        quiz=SHOWN,
        guess=gr.update(choices=wording.guesses(classifier), value=None),
        answer=HIDDEN,
        reasons=HIDDEN,
        scan=scan_html(question, None, scan, _(case.caption)),
        overlay="",
        truth="",
        anyway=HIDDEN,
        **NOTHING_BESIDE,
    )


def on_guess(question: Question, guess: str | None) -> Updates:
    """Answer for a case, after the visitor has guessed or wants no guess."""
    question.session.guess = guess
    yield from on_question(question)


def on_anyway(question: Question) -> Updates:
    """Show the answer for an image that is no brain MRI."""
    question.session.accepted = True
    yield from on_question(question)


def on_question(question: Question) -> Updates:
    """Answer for the image on show, by the chosen model and method: at once, then with the map if that takes longer."""
    session = question.session
    if session.image is None:
        return
    stop_event, session.asked = session.begin(), question.wish
    try:
        classifier, scan = updates.asked(question)
        wanted = updates.possible(classifier, question.method)
        quick = wanted if updates.is_quick(wanted) else updates.possible(classifier, FIRST_METHOD)
        explanation = updates.explained(classifier, scan, quick, "predicted")
    except UserError as error:
        if not stop_event.is_set():
            yield updates.refusal(session, error)
        return
    if stop_event.is_set():  # the visitor has chosen something else by now
        return
    if session.case is None and not session.accepted:  # once for each image of a visitor
        count_answer(explanation.prediction)
    session.explanation, session.covered, session.maps = explanation, None, {}
    session.asked = (question.checkpoint, wanted, explanation.label)
    yield updates.answered(question, classifier, scan)._replace(method=updates.method_list(classifier, wanted))
    if quick != wanted:
        question = replace(question, method=wanted, target=explanation.label)
        yield from updates.drawn(question, classifier, scan, stop_event)


def on_choice(question: Question) -> Updates:
    """Draw the map of another method or class; one that takes longer shows how it grows."""
    session = question.session
    if session.asked == question.wish or session.is_waiting:
        return
    stop_event, session.asked = session.begin(), question.wish
    try:
        classifier, scan = updates.asked(question)
    except UserError as error:
        if not stop_event.is_set():
            yield updates.refusal(session, error)
        return
    yield from updates.drawn(question, classifier, scan, stop_event)


def on_doubt(question: Question) -> Updates:
    """Draw the map of the likeliest tumor, where none was recognized."""
    session = question.session
    if session.explanation is None:
        return
    try:
        classifier, _ = updates.asked(question)
    except UserError as error:
        yield updates.refusal(session, error)
        return
    suspect = wording.strongest_tumor(classifier, session.explanation.prediction)
    yield PageUpdate(session, target=gr.update(value=suspect))
    yield from on_choice(replace(question, target=suspect))


def on_compare(question: Question) -> Updates:
    """Draw the maps of all methods, one by one."""
    session = question.session
    if session.is_waiting:
        return
    stop_event = session.begin()
    yield PageUpdate(session, progress=texts.waiting(0, 0), cancel=SHOWN)
    with contextlib.suppress(Cancelled):
        try:
            classifier, _ = updates.asked(question)
            for update in compare.tiles(question, classifier, stop_event):
                if not stop_event.is_set():
                    yield update
        except UserError as error:
            if not stop_event.is_set():
                yield updates.refusal(session, error)
            return
    if not stop_event.is_set():
        yield PageUpdate(session, caption=updates.words(question, classifier), **NO_JOB)


def on_tile(question: Question, index: int) -> PageUpdate:
    """Make a map of the comparison the main one; the first tile is the scan."""
    session, shown = question.session, list(question.session.maps.values())
    if not 1 <= index <= len(shown):
        return PageUpdate(session)
    session.explanation = shown[index - 1]
    return _back_to_map(question)


def on_cancel(question: Question) -> PageUpdate:
    """Stop the map that is being computed; the previous one stays, under its own name."""
    question.session.stop()
    if question.session.explanation is None:
        question.session.asked = None
        return PageUpdate(question.session, **NO_JOB)
    return _back_to_map(question)._replace(**NO_JOB)


def on_look(question: Question) -> PageUpdate:
    """Draw scan and map again as the visitor wants to see them; they may have been deleted in the meantime."""
    session = question.session
    if session.image is None:
        return PageUpdate(session, notice=texts.notice(texts.MAP_EXPIRED))
    if session.is_waiting:
        return PageUpdate(session)
    try:
        classifier, scan = updates.asked(question)
    except UserError as error:
        return PageUpdate(session, notice=texts.error(error.message))
    return updates.map_shown(question, classifier)._replace(scan=updates.panel(question, scan))


def on_cover(question: Question, points: Sequence[tuple[float, float]]) -> PageUpdate:
    """Cover spots of the scan and ask again."""
    return updates.covered(question, lambda _, scan: covering.with_spots(question.session.covered, points, scan.size))


def on_cover_strongest(question: Question) -> PageUpdate:
    """Cover the strongest area of the map and ask again."""
    return updates.covered(
        question, lambda classifier, scan: covering.strongest_area(classifier, question.session.explanation, scan)
    )


def on_uncover(question: Question) -> PageUpdate:
    """Show the whole scan and its answer again."""
    session = question.session
    session.covered = None
    if session.explanation is None:
        return PageUpdate(session, notice=texts.notice(texts.MAP_EXPIRED))
    choices = wording.rows(session.explanation.prediction)
    return PageUpdate(
        session,
        target=gr.update(choices=choices),
        scan=updates.panel(question, read_upload(session.image)),
        **NOTHING_COVERED,
    )


def on_delete(question: Question) -> PageUpdate:
    """Forget the visitor's image and everything that came of it."""
    question.session.show(None)
    deleted = texts.notice(texts.DELETED)
    return PageUpdate(question.session, notice=deleted, anyway=HIDDEN, result=HIDDEN, **NOTHING_BESIDE)


def on_load() -> tuple:
    """Return what stands on the page from the beginning, in the visitor's language."""
    models = gr.update(choices=measured.checkpoint_choices(allowed_checkpoints()))
    return texts.disclaimer(), texts.cases_title(), texts.privacy(), texts.hint(), texts.how_to_read(), models


def on_verdicts(session: Session, checkpoint: str) -> str:
    """Return the strip of cases with what a model makes of each; the first time this takes an answer for each."""
    try:
        found = verdicts(get_classifier(checkpoint, allow_fallback=True), session.cases)
    except UserError:  # the answer to a question says it
        found = {}
    return strip_html(session.cases, found, session.case)


def on_model(checkpoint: str) -> tuple:
    """Return a model's methods to choose from, and what the folded sections say: model, data, limits, links."""
    try:
        classifier = get_classifier(checkpoint, allow_fallback=True)
    except UserError as error:
        return gr.skip(), error.message, "", "", ""
    info = classifier.info
    description = measured.at_length(info, classifier.metrics, classifier.warnings)
    return (
        updates.method_list(classifier),
        f"{description}\n\n{about.models(allowed_checkpoints())}",
        about.data(info.id),
        about.limits(info.id),
        f"{about.links(info.id)}\n\n{about.cite(info.id, info.revision)}",
    )


def warm_up() -> None:
    """Import, download and measure now what would otherwise keep the first visitor waiting for seconds."""
    hub_follower.prefetch(allowed_checkpoints())
    try:
        classifier = get_classifier("default", allow_fallback=True)
    except UserError:  # the page shows it, and the other models work
        return
    cases = served_cases(allowed_checkpoints())
    for _again in range(2):  # the second answer is as quick as all that follow
        for _update in on_upload(Question(Session()), {"path": cases[0].file}):
            pass
    verdicts(classifier, cases)  # the strip shows them before anybody clicks
    memory.give_back()


def _back_to_map(question: Question) -> PageUpdate:
    """Show the map of the session, with its own method and class chosen."""
    explanation = question.session.explanation
    question.session.asked = (question.checkpoint, explanation.method, explanation.label)
    classifier = get_classifier(question.checkpoint, allow_fallback=True)
    update = updates.map_shown(replace(question, method=explanation.method), classifier)
    return update._replace(method=explanation.method, target=gr.update(value=explanation.label))
