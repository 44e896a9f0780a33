"""What each event changes on the page."""

import base64
import io
import re
import threading
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageChops

from brain_xai import METHODS, load_checkpoint
from brain_xai.checkpoint.catalog import bundled_checkpoints
from brain_xai.overlay import enlarged
from brain_xai.ui import handlers, texts
from brain_xai.ui.handlers import PageUpdate, Question
from brain_xai.ui.privacy import KEPT_MINUTES
from tests.helpers.at_hub import use
from tests.helpers.scans import LABELS
from tests.helpers.served import free_port, job_threads, upload, wait_until


@pytest.fixture(autouse=True)
def offered(tiny, slow, transformer, monkeypatch):
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", f"{tiny},{slow},{transformer}")


@pytest.fixture
def question(scan) -> Question:
    return Question(upload(scan))


def test_without_an_image_there_is_nothing_to_see():
    update = handlers.on_new_image(Question(None, method="occlusion"))
    assert update.method == "grad_cam"
    assert update.target["value"] == "predicted"
    assert update.notice == texts.empty_result()
    assert update.answer["visible"] is update.reasons["visible"] is False
    assert update.current_explanation is None


def test_a_method_chosen_before_the_answer_arrives_is_kept(question):
    assert handlers.on_new_image(replace(question, method="grad_cam")).method == handlers.PageUpdate().method


def test_an_image_is_answered_and_explained_at_once(question, scan, tiny):
    update = handlers.on_new_image(replace(question, method="occlusion", target="glioma"))
    prediction = load_checkpoint(tiny).predict(scan)
    assert update.probabilities == {texts.heading(label): p for label, p in prediction.probabilities.items()}
    assert update.method == update.current_explanation.method == "grad_cam"
    assert update.current_explanation.label == prediction.label
    assert texts.label_text(prediction.label) in update.caption
    assert "Right on 95 of 100 test scans" in update.accuracy
    assert update.answer["visible"] is update.reasons["visible"] is True
    assert [value for _, value in update.target["choices"]] == ["predicted", *LABELS]
    assert ("no tumor recognized", "notumor") in update.target["choices"]
    assert update.gallery["visible"] is False
    assert update.gallery["value"] is None


def test_a_slow_method_waits_for_its_button(question):
    update = handlers.on_new_choice(replace(question, method="occlusion"))
    assert update.start["visible"] is True
    assert update.current_explanation == gr.skip()  # the previous map stays


def test_occlusion_is_shown_after_its_last_step(question):
    asked = replace(question, method="occlusion", target="meningioma", stop_event=threading.Event())
    *steps, last = handlers.draw_slow_map(asked)
    assert "100\N{NO-BREAK SPACE}% done" in steps[-1].progress
    assert last.current_explanation.method == "occlusion"
    assert last.current_explanation.label == "meningioma"
    assert last.cancel["visible"] is False
    assert last.progress == ""


def test_a_slow_map_is_previewed(question, slow):
    asked = replace(question, checkpoint=slow, method="occlusion", target="low_grade", stop_event=threading.Event())
    *steps, last = handlers.draw_slow_map(asked)
    previews = [data for step in steps for data in re.findall('src="data:image/webp;base64,([^"]+)"', step.progress)]
    assert previews
    with Image.open(io.BytesIO(base64.b64decode(previews[-1]))) as preview:
        assert preview.size == last.overlay.size


def test_closing_the_page_stops_its_job(question, slow):
    stop_event = threading.Event()
    updates = handlers.draw_slow_map(replace(question, checkpoint=slow, method="occlusion", stop_event=stop_event))
    assert "% done" in next(updates).progress
    assert job_threads()
    updates.close()  # what Gradio does on a cancel, and when a visitor leaves
    assert stop_event.is_set()
    assert wait_until(lambda: not job_threads())


def test_a_cancelled_map_never_reaches_the_page(question, slow):
    asked = replace(question, checkpoint=slow, method="occlusion", stop_event=threading.Event())
    updates = handlers.draw_slow_map(asked)
    next(updates)
    cancelled = handlers.on_cancel("occlusion", asked.stop_event)
    assert cancelled.start["visible"] is True
    assert cancelled.cancel["visible"] is False
    assert list(updates)[-1] == PageUpdate(progress="")
    assert list(handlers.draw_slow_map(replace(asked, stop_event=None))) == []


@pytest.mark.parametrize("handler", [handlers.on_new_image, handlers.on_new_choice])
def test_a_new_question_stops_the_job_of_the_previous_one(handler, question):
    stop_event = threading.Event()
    handler(replace(question, method="occlusion", stop_event=stop_event))
    assert stop_event.is_set()


def test_all_methods_side_by_side(question, transformer):
    asked = replace(question, target="glioma", outline=True, stop_event=threading.Event())
    *steps, last = handlers.draw_all_maps(asked)
    assert "100\N{NO-BREAK SPACE}% done" in steps[-1].progress
    assert [caption for _, caption in last.gallery["value"]] == [method.title for method in METHODS.values()]
    assert last.gallery["label"] == "All methods, for glioma"
    assert last.gallery_notes == ""
    assert last.overlay == gr.skip()  # the chosen map stays
    assert last.start["visible"] is last.cancel["visible"] is False


def test_methods_that_cannot_work_are_listed_with_the_reason(question, transformer):
    asked = replace(question, checkpoint=transformer, method="occlusion", stop_event=threading.Event())
    *_, last = handlers.draw_all_maps(asked)
    assert "Grad-CAM: " in last.gallery_notes
    assert "test_vit has none" in last.gallery_notes
    assert last.start["visible"] is True


def test_layer_activation_comes_with_its_strongest_channels(question):
    update = handlers.on_new_choice(replace(question, method="layer_activation"))
    assert update.current_explanation.method == "layer_activation"
    assert len(update.gallery["value"]) == 16
    assert update.gallery_notes == ""  # the notes belonged to a comparison
    assert update.gallery["value"][0][1].startswith("channel ")


def test_the_strongest_area_can_be_outlined(question):
    explanation = handlers.on_new_image(question).current_explanation
    attribution = np.zeros_like(explanation.attribution)
    attribution[20:30, 20:30] = explanation.scale
    strong = replace(explanation, attribution=attribution)
    plain, outlined = (handlers.redraw(strong, 0.7, outline).overlay for outline in (False, True))
    assert ImageChops.difference(plain, outlined).getbbox()


def test_opacity_redraws_without_computing(question):
    explanation = handlers.on_new_image(question).current_explanation
    strong, none = (handlers.redraw(explanation, opacity, False).overlay for opacity in (1.0, 0.0))
    assert ImageChops.difference(strong, none).getbbox()
    plain = enlarged(explanation.original)
    assert not ImageChops.difference(none.crop((0, 0, *plain.size)), plain).getbbox()


def test_a_deleted_map_is_said_to_be_deleted():
    update = handlers.redraw(None, 0.5, False)
    assert update.overlay == gr.skip()
    assert f"{KEPT_MINUTES} minutes" in update.notice


def test_a_refused_image_takes_the_previous_answer_off_the_page(question, tmp_path):
    (tmp_path / "scan.png").write_bytes(b"")
    asked = replace(question, image=upload(tmp_path / "scan.png"), method="occlusion", stop_event=threading.Event())
    for update in (handlers.on_new_image(replace(asked, stop_event=None)), *handlers.draw_slow_map(asked)):
        assert "The file is empty." in update.notice
        assert 'role="alert"' in update.notice
        assert update.answer["visible"] is update.reasons["visible"] is False
        assert update.current_explanation is None


def test_if_a_method_cannot_work_the_answer_is_shown_anyway(question, transformer):
    update = handlers.on_new_image(replace(question, checkpoint=transformer))
    assert sum(update.probabilities.values()) == pytest.approx(1)
    assert "test_vit has none" in update.notice
    assert update.overlay.size == (160, 160)
    assert update.current_explanation is None


def test_the_page_may_show_another_model_with_a_warning(question, tmp_path, monkeypatch):
    use(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)  # the Hub is away
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", "org/never-fetched")
    update = handlers.on_new_image(replace(question, checkpoint="org/never-fetched"))
    assert update.current_explanation.prediction.checkpoint.id == bundled_checkpoints()[0]
    assert "org/never-fetched could not be fetched" in update.notice


def test_the_model_is_described_with_its_numbers_and_revision(tiny):
    text = handlers.describe_model("default")
    assert "95.1\N{NO-BREAK SPACE}%" in text
    assert load_checkpoint(tiny).info.revision in text
    assert Path(tiny).parent.name not in text
