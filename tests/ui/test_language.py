"""The visitor's language: which one a request asks for, and what the catalog makes of sentences and messages."""

import threading

import pytest
from gradio.i18n import I18nData
from starlette.datastructures import Headers

from brain_xai.ui import language
from brain_xai.ui.jobs import BackgroundJob
from brain_xai.ui.language import _, localized, of_request, preferred, translated

GERMAN = "Die Wahrheit: kein Tumor."
ENGLISH = "The truth: no tumor."


class Request:
    """What a Gradio request is here: its headers."""

    def __init__(self, accept_language: str):
        self.headers = Headers({"accept-language": accept_language})


@pytest.fixture
def german():
    token = language._language.set("de")
    yield
    language._language.reset(token)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en-US,en;q=0.9,de;q=0.8", "en"),
        ("en;q=0.5,de;q=0.9", "de"),
        ("fr-FR,de;q=0.5", "en"),  # the browser decides by the first one, too
        ("DE", "de"),
        ("", "en"),
        ("*", "en"),
        ("de;q=x", "de"),
        (";;,=,q", "en"),
    ],
)
def test_the_first_language_of_a_request_is_spoken(header, code):
    assert preferred(header) == code


def test_without_a_request_english_is_spoken():
    assert of_request(None) == "en"
    assert _(ENGLISH) == ENGLISH


def test_placeholders_are_filled_in(german):
    assert _("Case {number}: {caption}.", number=3, caption="{x}") == "Fall 3: {x}."
    assert _("Not in the catalog: {number}.", number=3) == "Not in the catalog: 3."
    assert _("A brace { without values") == "A brace { without values"


def test_finished_messages_are_recognized_by_the_sentence_they_were_made_of(german):
    assert translated(ENGLISH) == GERMAN
    assert translated("Case 12: T1, axial.") == "Fall 12: T1, axial."
    assert translated("Something else") == "Something else"


def test_two_visitors_at_once_each_read_their_own_language():
    """Gradio runs handlers in threads, and each step of a generator in another context."""
    meeting = threading.Barrier(2, timeout=60)

    def handler(name: str):
        yield f"{name} {_(ENGLISH)}"
        meeting.wait()
        yield f"{name} {_(ENGLISH)}"

    answers = {}

    def visit(header: str) -> None:
        answers[header] = list(localized(handler)(Request(header), header))

    threads = [threading.Thread(target=visit, args=(header,)) for header in ("de", "en")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {"de": [f"de {GERMAN}"] * 2, "en": [f"en {ENGLISH}"] * 2}
    assert _(ENGLISH) == ENGLISH


def test_a_handler_without_steps_answers_in_the_language_of_the_visitor():
    handler = localized(lambda *values: (_(ENGLISH), *values))
    assert handler(Request("de"), 1, 2) == (GERMAN, 1, 2)
    assert handler(Request("en"), 1, 2) == (ENGLISH, 1, 2)


def test_a_generator_that_is_closed_closes_its_handler():
    closed = []

    def handler():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    steps = localized(handler)(Request("de"))
    next(steps)
    steps.close()
    assert closed == [True]


def test_background_jobs_speak_the_language_of_their_visitor(german):
    assert BackgroundJob(lambda progress: _(ENGLISH), threading.Event()).result() == GERMAN


def test_gradio_is_given_the_labels_that_the_page_uses():
    text = language.label(ENGLISH)
    assert isinstance(text, I18nData)
    translations = language.labels().translations_dict
    assert translations["de"][text.key] == GERMAN
    assert translations["en"][text.key] == ENGLISH
    assert set(translations["de"]) < set(language.CATALOGS["de"])
