"""What each event changes on the page."""

import base64
import io
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageChops

from brain_xai import METHODS, explain, load_checkpoint
from brain_xai.checkpoint.catalog import bundled_checkpoints
from brain_xai.classifier import PredictionWarning
from brain_xai.ui import downloads, handlers, texts, updates, wording
from brain_xai.ui.cases import Case
from brain_xai.ui.inputs import UserError
from brain_xai.ui.privacy import KEPT_MINUTES
from brain_xai.ui.session import PageUpdate, Question, Session
from tests.helpers.at_hub import use
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import free_port, job_threads, upload, wait_until


@pytest.fixture(autouse=True)
def offered(tiny, slow, transformer, monkeypatch):
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", f"{tiny},{slow},{transformer}")


@pytest.fixture
def question(scan) -> Question:
    return Question(Session(image=upload(scan)))


@pytest.fixture
def asked(question) -> Question:
    """A question whose answer is on the page."""
    list(handlers.on_question(question))
    return question


def together(steps) -> PageUpdate:
    """Return everything that some updates have changed, one after the other."""
    shown = PageUpdate()
    for update in steps:
        changed = {name: value for name, value in update._asdict().items() if value != gr.skip()}
        shown = shown._replace(**changed)
    return shown


def image_in(html: str) -> Image.Image:
    """Return the image of a panel."""
    data = re.search('src="data:image/webp;base64,([^"]+)"', html)[1]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def size_of(file: str) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def test_without_an_image_nothing_happens():
    assert list(handlers.on_question(Question(Session()))) == []


def test_an_upload_is_answered_and_explained_at_once(question, scan, tiny):
    session = Session()
    update = together(handlers.on_upload(replace(question, session=session), upload(scan)))
    prediction = load_checkpoint(tiny).predict(scan)
    assert session.explanation.label == prediction.label
    assert session.explanation.method == "grad_cam"
    assert [label for _, label in update.target["choices"]] == sorted(
        LABELS, key=prediction.probabilities.get, reverse=True
    )
    assert update.target["value"] == prediction.label
    assert "Right on 95 of 100 test scans" in update.sentence
    assert texts.heading(prediction.label) in update.live
    assert update.answer["visible"] is update.reasons["visible"] is update.result["visible"] is True
    assert image_in(update.scan).size == (90, 90)
    assert image_in(update.overlay).width >= 480
    assert "strongly against" in update.overlay  # the ends of the colors


def test_the_method_survives_another_image_and_the_class_does_not(question, scan):
    asked = replace(question, method="layer_cam", target="glioma")
    update = together(handlers.on_upload(asked, upload(scan)))
    assert update.method["value"] == asked.session.explanation.method == "layer_cam"
    assert asked.session.explanation.label == asked.session.explanation.prediction.label


def test_a_slow_method_survives_too_and_the_answer_does_not_wait_for_it(question, scan):
    first, *_, last = handlers.on_upload(replace(question, method="smooth_grad"), upload(scan))
    assert first.answer["visible"] is True
    assert first.method["value"] == "smooth_grad"
    assert "SmoothGrad" in last.caption
    assert question.session.explanation.method == "smooth_grad"


def test_a_case_asks_for_a_guess_before_the_model_answers(question, scan):
    case = Case(str(scan), "T1, axial", "glioma", box=(0.1, 0.1, 0.5, 0.5), credit="somebody", lesson="Look here.")
    update = together(handlers.on_case(question, case))
    assert update.quiz["visible"] is True
    assert update.answer["visible"] is update.reasons["visible"] is False
    assert update.overlay == update.truth == ""
    assert "Look here." not in str(update._replace(session=None))
    update = together(handlers.on_guess(question, "notumor"))
    assert update.quiz["visible"] is False
    assert update.answer["visible"] is update.show_box["visible"] is True
    assert "Look here." in update.truth
    assert "somebody" in update.truth
    plain = image_in(update.overlay)
    boxed = image_in(handlers.on_look(replace(question, show_box=True)).overlay)
    assert ImageChops.difference(plain.convert("RGB"), boxed.convert("RGB")).getbbox()


def test_a_slow_map_starts_by_itself_and_shows_how_it_grows(asked, slow, monkeypatch):
    monkeypatch.setattr(updates, "PREVIEW_SECONDS", 0)  # a fast machine is done before the second preview is due
    list(handlers.on_question(replace(asked, checkpoint=slow)))
    before = asked.session.explanation
    *steps, last = handlers.on_choice(replace(asked, checkpoint=slow, method="occlusion", target="low_grade"))
    previews = [step.overlay for step in steps if step.overlay != gr.skip()]
    assert "<progress" in steps[0].progress
    assert steps[0].cancel["visible"] is True
    assert previews
    assert image_in(previews[-1]).size == image_in(last.overlay).size
    assert asked.session.explanation.method == "occlusion" != before.method
    assert asked.session.explanation.label == "low_grade"
    assert last.progress == ""
    assert last.cancel["visible"] is False


def test_a_dropdown_that_asks_twice_starts_one_map(asked, slow):
    list(handlers.on_question(replace(asked, checkpoint=slow)))
    again = replace(asked, checkpoint=slow, method="occlusion", target="low_grade")
    first = handlers.on_choice(again)
    next(first)
    assert list(handlers.on_choice(again)) == []
    assert "Occlusion" in list(first)[-1].caption
    assert list(handlers.on_choice(again)) == []


def test_a_dropdown_that_is_left_as_it_was_stops_nothing(asked):
    shown = replace(asked, target=asked.session.explanation.label)
    comparison = handlers.on_compare(shown)
    next(comparison)
    assert list(handlers.on_choice(shown)) == []
    assert not asked.session.running.is_set()
    comparison.close()


def test_a_map_that_was_cancelled_or_refused_can_be_asked_for_again(asked, slow, monkeypatch):
    list(handlers.on_question(replace(asked, checkpoint=slow)))
    again = replace(asked, checkpoint=slow, method="occlusion", target="low_grade")
    next(handlers.on_choice(again))
    handlers.on_cancel(again)
    next(handlers.on_choice(again))
    handlers.on_cancel(again)
    with monkeypatch.context() as broken:
        broken.setattr(updates, "explained", raise_refusal)
        [refused] = handlers.on_choice(replace(asked, checkpoint=slow, method="saliency", target="low_grade"))
    assert "role=" in refused.notice
    list(handlers.on_question(replace(asked, checkpoint=slow)))
    [drawn] = handlers.on_choice(replace(asked, checkpoint=slow, method="saliency", target="low_grade"))
    assert "Saliency" in drawn.caption


def raise_refusal(*_, **__):
    raise UserError("No memory is left.")


@pytest.mark.parametrize("handler", [handlers.on_question, handlers.on_choice])
def test_what_comes_late_is_not_shown_with_the_next_image(handler, asked, tmp_path, monkeypatch):
    """Two clicks in quick succession: the first is still being answered when the second is."""
    make_scan("notumor", 7, side=140).save(tmp_path / "next.png")
    session, explained = asked.session, updates.explained

    def overtaken(*arguments):
        monkeypatch.setattr(updates, "explained", explained)
        late = explained(*arguments)
        assert list(handlers.on_upload(replace(asked, target=None), upload(tmp_path / "next.png")))
        return late

    monkeypatch.setattr(updates, "explained", overtaken)
    assert list(handler(replace(asked, method="saliency", target="glioma"))) == []
    assert session.explanation.original.size == (140, 140)


def test_a_comparison_that_was_overtaken_leaves_no_map_to_the_next_image(asked, scan):
    steps = handlers.on_compare(asked)
    next(steps)
    next(steps)
    assert wait_until(lambda: next(steps) and asked.session.maps)
    asked.session.show(upload(scan))
    list(steps)
    assert asked.session.maps == {}


def test_without_an_answer_there_is_nothing_to_choose_or_to_change(asked, scan):
    """A list that is left, or a slider that comes to rest, after the next image was chosen."""
    asked.session.show(upload(scan))
    assert list(handlers.on_choice(replace(asked, method="saliency"))) == []
    assert list(handlers.on_compare(asked)) == []
    assert handlers.on_look(replace(asked, opacity=0.2)) == PageUpdate(asked.session)


def test_closing_the_page_stops_its_job(asked, slow):
    shown = handlers.on_choice(replace(asked, checkpoint=slow, method="occlusion", target="low_grade"))
    next(shown)
    next(shown)
    assert job_threads()
    shown.close()  # what Gradio does when a visitor leaves
    assert wait_until(lambda: not job_threads())


def test_a_cancelled_map_never_reaches_the_page(asked, slow):
    list(handlers.on_question(replace(asked, checkpoint=slow)))
    before = asked.session.explanation
    steps = handlers.on_choice(replace(asked, checkpoint=slow, method="occlusion", target="low_grade"))
    next(steps)
    cancelled = handlers.on_cancel(replace(asked, checkpoint=slow, method="occlusion"))
    assert cancelled.method == before.method == "grad_cam"
    assert cancelled.cancel["visible"] is False
    assert "Grad-CAM" in cancelled.caption
    assert list(steps) == []
    assert asked.session.explanation is before


@pytest.mark.parametrize("handler", [handlers.on_question, handlers.on_choice, handlers.on_compare])
def test_a_new_question_stops_the_work_for_the_previous_one(handler, asked):
    stop_event = asked.session.begin()
    next(handler(replace(asked, target="glioma")))
    assert stop_event.is_set()


def test_all_methods_side_by_side_one_by_one(asked):
    steps = list(handlers.on_compare(replace(asked, target="glioma")))
    galleries = [step.gallery["value"] for step in steps if step.gallery != gr.skip()]
    titles = [METHODS[key].title for key in wording.usable(load_checkpoint("default"))]
    assert {len(gallery) for gallery in galleries} == {len(titles) + 1}  # each map has its place from the beginning
    ready = [[caption for _, caption in gallery if not caption.endswith(" …")] for gallery in galleries]
    assert [len(captions) for captions in ready] == list(range(1, len(titles) + 2))
    assert galleries[-1][0][1] == texts.THE_SCAN
    assert set(ready[-1][1:]) == set(titles)
    assert len({size_of(file) for file, _ in (*galleries[0], *galleries[-1])}) == 1
    assert "glioma" in steps[-2].gallery["label"] if steps[-2].gallery != gr.skip() else True
    assert asked.session.explanation.method == "grad_cam"  # the chosen map stays
    update = handlers.on_tile(replace(asked, target="glioma"), 1)
    first = next(iter(asked.session.maps.values()))
    assert asked.session.explanation is first
    assert update.method == first.method
    assert METHODS[first.method].title in update.caption
    assert handlers.on_tile(asked, 0).overlay == gr.skip()  # the scan


def test_a_compared_map_is_not_computed_again(asked):
    list(handlers.on_compare(replace(asked, target="glioma")))
    [update] = handlers.on_choice(replace(asked, method="occlusion", target="glioma"))
    assert asked.session.explanation is asked.session.maps["occlusion"]
    assert "Occlusion" in update.caption


def test_methods_that_cannot_work_are_left_out_by_name(question, transformer):
    update = together(handlers.on_question(replace(question, checkpoint=transformer)))
    keys = [key for _, key in update.method["choices"]]
    assert "grad_cam" not in keys
    assert update.method["value"] == question.session.explanation.method == "attention_relevance"
    steps = together(handlers.on_compare(replace(question, checkpoint=transformer, method="saliency")))
    assert [caption for _, caption in steps.gallery["value"][1:]] == [METHODS[key].title for key in keys]
    assert "Grad-CAM" in steps.gallery_notes


def test_covering_everything_but_nothing_changes_only_the_rows(asked, scan, tiny):
    before = asked.session.explanation
    nothing = handlers.on_cover(asked, [])
    assert all("→" in text for text, _ in nothing.target["choices"])
    everything = handlers.on_cover(asked, [(x / 20, y / 20) for x in range(21) for y in range(21)])
    assert asked.session.covered.all()
    black = load_checkpoint(tiny).predict(Image.new("L", (90, 90)))
    row = next(text for text, label in everything.target["choices"] if label == before.label)
    assert row.endswith(f"→ {wording.percent(black.probabilities[before.label])}")
    assert not np.asarray(image_in(everything.scan).convert("L")).any()
    assert asked.session.explanation is before
    uncovered = handlers.on_uncover(asked)
    assert asked.session.covered is None
    assert all("→" not in text for text, _ in uncovered.target["choices"])


def test_opacity_and_view_redraw_without_computing(asked):
    strong, none = (image_in(handlers.on_look(replace(asked, opacity=opacity)).overlay) for opacity in (1.0, 0.0))
    assert ImageChops.difference(strong.convert("RGB"), none.convert("RGB")).getbbox()
    seen = handlers.on_look(replace(asked, as_model=True))
    assert image_in(seen.scan).size == asked.session.explanation.view.size


def test_a_map_without_a_strong_area_says_why_there_is_no_outline(asked):
    explanation = asked.session.explanation
    asked.session.explanation = replace(explanation, attribution=np.zeros_like(explanation.attribution))
    assert texts.NO_OUTLINE in handlers.on_look(replace(asked, outline=True)).caption
    assert texts.NO_OUTLINE not in handlers.on_look(asked).caption


def test_what_was_deleted_is_said_to_be_deleted_and_the_map_stays():
    expired = Question(Session())
    for update in (handlers.on_look(expired), handlers.on_cover(expired, [(0.5, 0.5)]), handlers.on_uncover(expired)):
        assert f"{KEPT_MINUTES} minutes" in update.notice
        assert update.overlay == gr.skip()
    with pytest.raises(gr.Error, match=f"{KEPT_MINUTES} minutes"):
        downloads.save_map(expired)


def test_delete_now_forgets_everything(asked):
    update = handlers.on_delete(asked)
    assert vars(asked.session) == vars(Session())
    assert update.result["visible"] is False
    assert "deleted" in update.notice


def test_a_refused_image_takes_the_previous_answer_off_the_page(asked, tmp_path):
    (tmp_path / "scan.png").write_bytes(b"")
    update = together(handlers.on_upload(asked, upload(tmp_path / "scan.png")))
    assert "The file is empty." in update.notice
    assert 'role="alert"' in update.notice
    assert update.result["visible"] is False
    assert asked.session.explanation is None


def test_no_brain_mri_gets_no_answer_unless_the_visitor_insists(question, scan, tiny, monkeypatch):
    classifier = load_checkpoint(tiny)
    warned = replace(classifier, warnings=(PredictionWarning("not_brain_mri", "No brain."),))
    question.session.explanation = explain(warned, scan)
    image = Image.open(scan)
    refused = updates.answered(question, warned, image)
    assert refused.answer["visible"] is refused.reasons["visible"] is False
    assert refused.anyway["visible"] is True
    assert refused.overlay == ""
    assert "No brain." in refused.warnings
    assert refused.sentence == gr.skip()
    question.session.accepted = True
    shown = updates.answered(question, warned, image)
    assert shown.answer["visible"] is True
    assert shown.anyway["visible"] is False
    assert "No brain." in shown.warnings


def test_evidence_against_offers_the_map_of_the_likeliest_tumor(question, scan, tiny):
    warned = replace(load_checkpoint(tiny), warnings=(PredictionWarning("evidence_against", "A spot."),))
    question.session.explanation = explain(warned, scan)
    update = updates.answered(question, warned, Image.open(scan))
    suspect = wording.strongest_tumor(warned, question.session.explanation.prediction)
    assert texts.label_text(suspect) in update.doubt["value"]
    shown = together(handlers.on_doubt(question))
    assert shown.target["value"] == question.session.explanation.label == suspect


def test_downloads_say_what_is_in_them(asked, scan):
    explanation = asked.session.explanation
    asked.session.explanation = explain(load_checkpoint("default"), scan, "grad_cam", "glioma")
    saved = [Path(save(asked)) for save in (downloads.save_map, downloads.save_numbers, downloads.save_report)]
    assert [file.name for file in saved] == ["glioma_grad-cam.png", "glioma_grad-cam.json", "glioma_grad-cam.html"]
    numbers = json.loads(saved[1].read_text())
    np.testing.assert_allclose(numbers["attribution"], asked.session.explanation.attribution, rtol=1e-4, atol=1e-9)
    assert numbers["checkpoint"]["revision"] == explanation.prediction.checkpoint.revision


def test_the_page_may_show_another_model_with_a_warning(question, tmp_path, monkeypatch):
    use(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)  # the Hub is away
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", "org/never-fetched")
    update = together(handlers.on_question(replace(question, checkpoint="org/never-fetched")))
    assert question.session.explanation.prediction.checkpoint.id == bundled_checkpoints()[0]
    assert "org/never-fetched could not be fetched" in update.warnings


def test_the_model_is_described_with_its_numbers_and_revision(tiny):
    methods, text, _, limits, links = handlers.on_model("default")
    assert "95.1\N{NO-BREAK SPACE}%" in text
    assert load_checkpoint(tiny).info.revision in text
    assert Path(tiny).parent.name not in text
    assert {key for _, key in methods["choices"]} == set(wording.usable(load_checkpoint("default")))
    assert "diagnosis" in limits
    assert "bibtex" in links


def test_the_strip_says_what_each_model_makes_of_the_cases_before_any_answer(tiny, scan, tmp_path):
    label = load_checkpoint(tiny).predict(scan).label
    (tmp_path / "same.png").write_bytes(scan.read_bytes())
    right = Case(str(scan), "one", label)
    wrong = Case(str(tmp_path / "same.png"), "two", next(name for name in LABELS if name != label))
    shown = handlers.on_verdicts(Session(cases=(right, wrong)), "default")
    assert re.findall('class="verdict">([^<]*)<', shown) == ["model right", "model wrong"]
    shown = handlers.on_verdicts(Session(cases=(right,), case=right), "no such checkpoint")
    assert re.findall('class="verdict">([^<]*)<', shown) == [""]
    assert 'aria-pressed="true"' in shown


def test_each_visitor_has_a_session_of_their_own():
    one = Session()
    event = one.begin()
    assert isinstance(event, threading.Event)
    assert Session().running is None
    one.stop()
    assert event.is_set()
