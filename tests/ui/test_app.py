"""The page and its endpoints: the contract, one visitor beside another, and nothing kept."""

import asyncio
import base64
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, STDOUT

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageChops

from brain_xai import METHODS, explain, load_checkpoint
from brain_xai.checkpoint.catalog import bundled_checkpoints
from brain_xai.classifier import CheckpointInfo, PredictionWarning
from brain_xai.explanation import Cancelled
from brain_xai.overlay import draw_overlay
from brain_xai.ui import api, handlers, texts
from brain_xai.ui.examples import phantoms
from brain_xai.ui.inputs import OPACITY
from brain_xai.ui.jobs import Work
from brain_xai.ui.page import build_page
from brain_xai.ui.privacy import KEPT_MINUTES, sweep
from tests.helpers.at_hub import use
from tests.helpers.scans import make_scan
from tests.helpers.served import METRICS, free_port, save_tiny_checkpoint, served

LABELS = ("glioma", "meningioma", "notumor", "pituitary")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def tiny(folder) -> str:
    return save_tiny_checkpoint(folder / "tiny", LABELS)


@pytest.fixture(scope="module")
def slow(folder) -> str:
    """A checkpoint for which occlusion takes seconds, in more than twenty batches."""
    return save_tiny_checkpoint(folder / "slow", ("low_grade", "high_grade"), side=512)


@pytest.fixture(scope="module")
def transformer(folder) -> str:
    """A checkpoint on which Grad-CAM does not work."""
    return save_tiny_checkpoint(folder / "transformer", LABELS, "test_vit", side=160)


@pytest.fixture(scope="module")
def app(tiny, slow, transformer):
    with served(tiny, slow, transformer) as page_and_address:
        yield page_and_address


@pytest.fixture(scope="module")
def page(app) -> gr.Blocks:
    return app[0]


@pytest.fixture(scope="module")
def address(app) -> str:
    return app[1]


@pytest.fixture(scope="module")
def client(address, folder) -> Client:
    return Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)


@pytest.fixture(scope="module")
def scan(folder) -> Path:
    path = folder / "scan.png"
    make_scan("glioma", 0, side=90).save(path)
    return path


def upload(path: Path) -> dict:
    """What gradio hands to a handler for an uploaded file."""
    return {"path": str(path), "orig_name": path.name}


def working_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("work")]


def wait_until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


# The contract of the endpoints


def test_predict(client, scan, tiny):
    answer = client.predict(image=handle_file(scan), api_name="/predict")
    classifier = load_checkpoint(tiny)
    prediction = classifier.predict(scan)
    assert list(answer) == ["label", "probabilities", "checkpoint", "input", "warnings", "seconds"]
    assert answer["label"] == prediction.label
    assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-6)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["checkpoint"] == {"id": tiny, "revision": classifier.info.revision, "architecture": "test_resnet"}
    assert answer["input"] == {"width": 90, "height": 90, "model_width": 64, "model_height": 64}
    assert answer["warnings"] == []
    assert 0 < answer["seconds"] < 60


@pytest.mark.parametrize(("method", "target"), [("grad_cam", "predicted"), ("occlusion", "pituitary")])
def test_explain(method, target, client, scan, tiny):
    picture, attribution, facts = client.predict(
        image=handle_file(scan), method=method, target=target, api_name="/explain"
    )
    explanation = explain(load_checkpoint(tiny), scan, method, target)
    values = np.load(attribution, allow_pickle=False)
    assert values.dtype == np.float32
    assert values.shape == (64, 64)
    assert values == pytest.approx(explanation.attribution, abs=1e-5)
    expected = draw_overlay(explanation, OPACITY)
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
        assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(expected)).max() <= 1
    assert list(facts) == [
        *("method", "target", "label", "prediction", "unit", "scale"),
        *("settings", "quality", "warnings", "checkpoint", "seconds"),
    ]
    assert facts["unit"] == METHODS[method].unit
    assert facts["scale"] == explanation.scale
    assert facts["prediction"]["label"] == explanation.prediction.label
    assert facts["prediction"]["probabilities"] == pytest.approx(explanation.prediction.probabilities, abs=1e-6)
    assert (facts["method"], facts["label"]) == (method, explanation.label)
    assert LABELS[facts["target"]] == explanation.label
    assert facts["quality"] is None
    assert facts["checkpoint"]["id"] == tiny
    if target != "predicted":
        assert facts["label"] == target


def test_compare(client, scan, tiny, transformer):
    gallery, facts = client.predict(image=handle_file(scan), target="pituitary", api_name="/compare")
    assert [entry["caption"] for entry in gallery] == list(facts["methods"]) == list(METHODS)
    assert facts["not_applicable"] == {}
    assert (facts["label"], LABELS[facts["target"]]) == ("pituitary", "pituitary")
    classifier = load_checkpoint(tiny)
    assert facts["prediction"]["label"] == classifier.predict(scan).label
    for entry in gallery[:2]:
        explanation = explain(classifier, scan, entry["caption"], "pituitary")
        numbers = facts["methods"][entry["caption"]]
        assert (numbers["unit"], numbers["scale"]) == (METHODS[explanation.method].unit, explanation.scale)
        expected = draw_overlay(explanation, OPACITY)
        with Image.open(entry["image"]) as picture:
            assert np.abs(np.asarray(picture, dtype=int)[..., :3] - np.asarray(expected)).max() <= 1
    gallery, facts = client.predict(image=handle_file(scan), checkpoint=transformer, api_name="/compare")
    assert "test_vit has none" in facts["not_applicable"]["grad_cam"]
    assert {entry["caption"] for entry in gallery} | set(facts["not_applicable"]) == set(METHODS)


def test_checkpoints(client, tiny, slow, transformer):
    listed = client.predict(api_name="/checkpoints")
    assert [entry["id"] for entry in listed] == [tiny, slow, transformer]  # the default first
    assert listed[1]["label_names"] == ["low_grade", "high_grade"]
    assert listed[0]["revision"] == load_checkpoint(tiny).info.revision
    assert listed[0]["metrics"] == {key: value for key, value in METRICS.items() if key != "history"}


def test_these_endpoints_and_no_others_are_public(client, address):
    api = client.view_api(return_format="dict", print_info=False)
    arguments = {
        name: {parameter["parameter_name"]: parameter["parameter_default"] for parameter in endpoint["parameters"]}
        for name, endpoint in api["named_endpoints"].items()
    }
    assert arguments == {
        "/predict": {"image": None, "checkpoint": "default"},
        "/explain": {"image": None, "checkpoint": "default", "method": "grad_cam", "target": "predicted"},
        "/compare": {"image": None, "checkpoint": "default", "target": "predicted"},
        "/checkpoints": {},
    }
    assert not api["unnamed_endpoints"]
    config = httpx.get(f"{address}config").json()
    callable_by_clients = {d["api_name"] for d in config["dependencies"] if d["api_visibility"] != "private"}
    assert callable_by_clients == {"predict", "explain", "compare", "checkpoints"}


def test_another_checkpoint_by_its_id(client, scan, slow):
    answer = client.predict(image=handle_file(scan), checkpoint=slow, api_name="/predict")
    assert set(answer["probabilities"]) == {"low_grade", "high_grade"}
    assert answer["checkpoint"]["id"] == slow


def test_only_allowed_checkpoints_reach_the_loader(client, scan, folder, tiny):
    forbidden = save_tiny_checkpoint(folder / "forbidden", LABELS)
    for name in (forbidden, f"{tiny}/../forbidden", "bundled/x", "org/repo", "", None, [tiny]):
        with pytest.raises(AppError, match=re.escape(f"Use one of: default, {tiny},")) as refusal:
            client.predict(image=handle_file(scan), checkpoint=name, api_name="/predict")
        assert "forbidden" not in str(refusal.value)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"method": "magic"}, "no such method. Use one of: grad_cam, hires_cam"),
        ({"method": ["grad_cam"]}, "no such method"),
        ({"target": "notumour"}, "Use one of: predicted, glioma, meningioma, notumor, pituitary"),
        ({"target": 4}, "not a class"),
    ],
)
def test_arguments_that_do_not_exist_are_named(argument, sentence, client, scan):
    with pytest.raises(AppError, match=sentence):
        client.predict(image=handle_file(scan), api_name="/explain", **argument)


def test_a_method_that_cannot_work_says_why(client, scan, transformer):
    with pytest.raises(AppError, match=r"test_vit has none\. Use occlusion"):
        client.predict(image=handle_file(scan), checkpoint=transformer, api_name="/explain")
    _, _, facts = client.predict(
        image=handle_file(scan), checkpoint=transformer, method="occlusion", api_name="/explain"
    )
    assert facts["method"] == "occlusion"


def test_a_checkpoint_that_cannot_be_loaded_leaks_no_path(folder, tiny, scan, monkeypatch, capfd):
    broken = folder / "broken"
    broken.mkdir()
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", f"{tiny},{broken}")
    with pytest.raises(gr.Error, match="cannot be loaded at the moment") as refusal:
        api.predict(upload(scan), str(broken))
    assert str(folder) not in refusal.value.message
    assert "no model.safetensors" in capfd.readouterr().err  # the maintainer reads why
    assert [entry["id"] for entry in api.checkpoints()] == [tiny]


def test_another_model_never_answers_a_call_but_the_page_may_show_one(scan, tmp_path, monkeypatch, capfd):
    use(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)  # a Hub that is away
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", "org/never-fetched")
    for name in ("org/never-fetched", "default"):
        with pytest.raises(gr.Error, match=r"No other model answers in its place\. Try again"):
            api.predict(upload(scan), name)
        with pytest.raises(gr.Error, match="No other model answers"):
            asyncio.run(api.explain_scan(upload(scan), name))
    assert api.checkpoints() == []
    shown = handlers.Shows(*handlers.show_new(upload(scan), "org/never-fetched", 0.7, False, None)[2:])
    assert shown.shown.prediction.checkpoint.id == bundled_checkpoints()[0]
    assert "org/never-fetched could not be fetched" in shown.notice


def test_no_checkpoint_at_all_ends_with_a_sentence(monkeypatch, tmp_path):
    monkeypatch.delenv("BRAIN_XAI_CHECKPOINTS", raising=False)
    monkeypatch.setattr("brain_xai.checkpoint.catalog.BUNDLED", tmp_path)
    with pytest.raises(SystemExit, match="no checkpoint to serve"):
        build_page()


# Work that takes seconds


def test_work_reports_its_steps_and_its_result():
    def count(progress):
        for done in range(3):
            progress(done, 3)
        return "done"

    work = Work(count, threading.Event())
    assert list(work) == [(0, 3, None), (1, 3, None), (2, 3, None)]
    assert work.result() == "done"


def test_work_passes_on_what_is_raised():
    work = Work(lambda progress: 1 / 0, threading.Event())
    assert list(work) == []
    with pytest.raises(ZeroDivisionError):
        work.result()


def test_stopped_work_ends_at_its_next_step():
    first_step, go_on, stopped = threading.Event(), threading.Event(), threading.Event()
    steps = []

    def count(progress):
        for step in range(3):
            steps.append(step)
            progress(step, 3)
            first_step.set()
            assert go_on.wait(5)

    work = Work(count, stopped)
    assert first_step.wait(5)
    stopped.set()
    go_on.set()
    with pytest.raises(Cancelled):
        work.result()
    assert steps == [0, 1]


def test_closing_the_page_or_cancelling_stops_occlusion_within_a_batch(scan, slow, app):
    running = handlers.show_stepwise(upload(scan), slow, "occlusion", "predicted", 0.7, False, threading.Event())
    shown = next(running)
    assert "% done" in shown.progress
    start = time.monotonic()
    next(running)
    batch = time.monotonic() - start
    assert working_threads()
    running.close()  # what gradio does on a cancel, and when a visitor leaves
    assert wait_until(lambda: not working_threads(), 3 * batch + 1)


def test_a_cancelled_map_never_reaches_the_page(scan, slow, app):
    running = threading.Event()
    steps = handlers.show_stepwise(upload(scan), slow, "occlusion", "predicted", 0.7, False, running)
    next(steps)
    ready = handlers.cancel("occlusion", running)
    assert ready.start["visible"] is True
    assert ready.cancel["visible"] is False
    last = list(steps)[-1]
    assert last == handlers.UNCHANGED._replace(progress="")
    assert list(handlers.show_stepwise(upload(scan), slow, "occlusion", "predicted", 0.7, False, None)) == []


def test_a_new_question_stops_the_map_for_the_one_before(scan, app):
    for ask in (
        lambda running: handlers.show_new(None, "default", 0.7, False, running),
        lambda running: handlers.show(upload(scan), "default", "occlusion", "glioma", 0.7, False, running),
    ):
        running = threading.Event()
        ask(running)
        assert running.is_set()


def test_cancelling_the_job_stops_explain_on_the_server(client, scan, slow):
    job = client.submit(image=handle_file(scan), checkpoint=slow, method="occlusion", api_name="/explain")
    assert wait_until(working_threads, 20)
    job.cancel()
    assert wait_until(lambda: not working_threads(), 5)
    assert client.predict(image=handle_file(scan), api_name="/predict")["label"] in LABELS


def test_a_slow_map_of_one_visitor_does_not_hold_up_another(address, client, scan, slow):
    job = client.submit(image=handle_file(scan), checkpoint=slow, method="occlusion", api_name="/explain")
    assert wait_until(working_threads, 20)
    other = Client(address, verbose=False, analytics_enabled=False)
    other.predict(image=handle_file(scan), api_name="/predict")
    assert not job.done()
    job.cancel()
    assert wait_until(lambda: not working_threads(), 5)


# What the page shows


def test_without_a_picture_there_is_nothing_to_see(app):
    method, target, *shown = handlers.show_new(None, "default", 0.7, False, None)
    shown = handlers.Shows(*shown)
    assert method == "grad_cam"
    assert target["value"] == "predicted"
    assert shown.notice == texts.empty_result()
    assert shown.answer["visible"] is shown.reasons["visible"] is False
    assert shown.shown is None


def test_a_picture_is_answered_and_explained_at_once(app, scan, tiny):
    _, target, *shown = handlers.show_new(upload(scan), "default", 0.7, False, None)
    shown = handlers.Shows(*shown)
    prediction = load_checkpoint(tiny).predict(scan)
    assert shown.probabilities == {texts.heading(label): p for label, p in prediction.probabilities.items()}
    assert shown.shown.method == "grad_cam"
    assert shown.shown.label == prediction.label
    assert texts.label_text(prediction.label) in shown.caption
    accuracy = shown.accuracy.replace("\N{NO-BREAK SPACE}", " ")
    assert "95.1 % of 1,311 test scans (95 % interval 93.9 % to 96.2 %)" in accuracy
    assert shown.answer["visible"] is shown.reasons["visible"] is True
    assert [value for _, value in target["choices"]] == ["predicted", *LABELS]
    assert ("no tumor recognized", "notumor") in target["choices"]


def test_a_slow_method_waits_for_its_button(app, scan):
    shown = handlers.show(upload(scan), "default", "occlusion", "predicted", 0.7, False, None)
    assert shown.start["visible"] is True
    assert shown.shown == gr.skip()  # the map before stays


def test_occlusion_is_shown_after_its_last_step(app, scan):
    *steps, last = handlers.show_stepwise(
        upload(scan), "default", "occlusion", "meningioma", 0.7, False, threading.Event()
    )
    assert steps[-1].progress.endswith("100 % done</span>")
    assert last.shown.method == "occlusion"
    assert last.shown.label == "meningioma"
    assert last.cancel["visible"] is False
    assert last.progress == ""


def test_what_is_known_of_a_slow_map_is_shown_meanwhile(app, scan, slow):
    *steps, last = handlers.show_stepwise(upload(scan), slow, "occlusion", "low_grade", 0.7, False, threading.Event())
    previews = [
        address for step in steps for address in re.findall('src="data:image/webp;base64,([^"]+)"', step.progress)
    ]
    assert previews
    with Image.open(io.BytesIO(base64.b64decode(previews[-1]))) as preview:
        assert preview.size == last.overlay.size


def test_all_methods_side_by_side(app, scan, transformer):
    *steps, last = handlers.show_comparison(upload(scan), "default", "grad_cam", "glioma", 0.7, True, threading.Event())
    assert steps[-1].progress.endswith("100 % done</span>")
    assert [caption for _, caption in last.gallery["value"]] == [method.title for method in METHODS.values()]
    assert last.gallery["label"] == "Every method, for glioma"
    assert last.gallery_notes == ""
    assert last.overlay == gr.skip()  # the chosen map stays
    assert last.start["visible"] is last.cancel["visible"] is False
    *_, last = handlers.show_comparison(
        upload(scan), transformer, "occlusion", "predicted", 0.7, True, threading.Event()
    )
    assert "Grad-CAM: " in last.gallery_notes
    assert "test_vit has none" in last.gallery_notes
    assert last.start["visible"] is True


def test_a_new_picture_takes_the_gallery_off_the_page(app, scan):
    shown = handlers.Shows(*handlers.show_new(upload(scan), "default", 0.7, False, None)[2:])
    assert shown.gallery["visible"] is False
    assert shown.gallery["value"] is None


def test_layer_activation_comes_with_its_strongest_channels(app, scan):
    shown = handlers.show(upload(scan), "default", "layer_activation", "predicted", 0.7, False, None)
    assert shown.shown.method == "layer_activation"
    assert len(shown.gallery["value"]) == 16
    assert shown.gallery_notes == ""  # those were about the maps that stood there before
    assert shown.gallery["value"][0][1].startswith("channel ")


def test_how_good_a_method_was_measured_to_be_is_said_beside_its_map(folder, scan):
    checkpoint = Path(save_tiny_checkpoint(folder / "measured", LABELS))
    assert "has not been measured" in texts.how_good(None)
    measured = {"value": 0.744, "low": 0.69, "high": 0.791, "n": 300}
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    explanations = {"checkpoint": {"revision": digest[:12]}, "methods": {"grad_cam": {"pointing_game": measured}}}
    (checkpoint / "explanations.json").write_text(json.dumps(explanations))
    with served(str(checkpoint)) as (_, address):
        client = Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)
        facts = client.predict(image=handle_file(scan), api_name="/explain")[2]
        shown = handlers.Shows(*handlers.show_new(upload(scan), "default", 0.7, False, None)[2:])
    assert facts["quality"] == {"pointing_game": measured}
    caption = texts.caption(METHODS["grad_cam"], "glioma", facts["quality"]).replace("\N{NO-BREAK SPACE}", " ")
    assert "In 74.4 % of 300 test scans with a marked tumor" in caption
    assert "(95 % interval 69.0 % to 79.1 %)" in caption
    assert shown.caption == texts.caption(METHODS["grad_cam"], facts["label"], {"pointing_game": measured})


def test_a_map_for_no_tumor_is_not_said_to_hit_one():
    quality = {"pointing_game": {"value": 0.847, "low": 0.8, "high": 0.89, "n": 300}}
    for method in METHODS.values():
        assert (
            texts.short_caption(method, "glioma", quality) == f"{method.title} (hit the tumor in 85 of 100 test scans)"
        )
        assert texts.short_caption(method, "notumor", quality) == method.title
        assert "84.7" in texts.caption(method, "glioma", quality)
        assert "84.7" not in texts.caption(method, "notumor", quality)


def test_only_signed_maps_are_said_to_speak_for_and_against():
    for method in METHODS.values():
        assert ("blue against" in texts.caption(method, "glioma", None)) is method.signed


def test_the_strongest_area_can_be_outlined(app, scan):
    explanation = handlers.Shows(*handlers.show_new(upload(scan), "default", 0.7, False, None)[2:]).shown
    attribution = np.zeros_like(explanation.attribution)
    attribution[20:30, 20:30] = explanation.scale
    strong = replace(explanation, attribution=attribution)
    plain, lined = (handlers.redraw(strong, 0.7, outline)[0] for outline in (False, True))
    assert ImageChops.difference(plain, lined).getbbox()


def test_a_refused_picture_takes_the_answer_before_off_the_page(app, tmp_path):
    (tmp_path / "scan.png").write_bytes(b"")
    for shown in (
        handlers.Shows(*handlers.show_new(upload(tmp_path / "scan.png"), "default", 0.7, False, None)[2:]),
        *handlers.show_stepwise(
            upload(tmp_path / "scan.png"), "default", "occlusion", "predicted", 0.7, False, threading.Event()
        ),
    ):
        assert "The file is empty." in shown.notice
        assert 'role="alert"' in shown.notice
        assert shown.answer["visible"] is shown.reasons["visible"] is False
        assert shown.shown is None


def test_where_a_method_cannot_work_the_answer_is_shown_all_the_same(app, scan, transformer):
    shown = handlers.Shows(*handlers.show_new(upload(scan), transformer, 0.7, False, None)[2:])
    assert sum(shown.probabilities.values()) == pytest.approx(1)
    assert "test_vit has none" in shown.notice
    assert shown.overlay.size == (160, 160)
    assert shown.shown is None


def test_opacity_redraws_without_computing(app, scan, monkeypatch):
    explanation = handlers.Shows(*handlers.show_new(upload(scan), "default", 0.7, False, None)[2:]).shown
    strong, _ = handlers.redraw(explanation, 1.0, False)
    none, _ = handlers.redraw(explanation, 0.0, False)
    assert ImageChops.difference(strong, none).getbbox()
    top = none.crop((0, 0, none.width, none.width))
    plain = explanation.view.resize(top.size, Image.Resampling.BICUBIC)
    assert not ImageChops.difference(top, plain).getbbox()


def test_a_map_that_has_been_deleted_is_said_to_be(app):
    picture, notice = handlers.redraw(None, 0.5, False)
    assert picture == gr.skip()
    assert f"{KEPT_MINUTES} minutes" in notice


def test_the_model_is_described_with_its_numbers_and_revision(app, tiny):
    text = handlers.about_model("default")
    assert "95.1\N{NO-BREAK SPACE}%" in text
    assert "No copy of a test scan was used for training" in text
    assert load_checkpoint(tiny).info.revision in text


def test_a_number_from_a_leaky_split_says_so():
    assert "flatters the model" in texts.accuracy(METRICS | {"split": "official"})


def test_a_model_without_numbers_is_a_demonstration():
    text = texts.about_model(CheckpointInfo("org/model", "abc", "resnet18"), {})
    assert "Nobody has measured" in text
    assert "abc" in text


def test_labels_as_people_say_them():
    assert texts.label_text("notumor") == "no tumor recognized"
    assert texts.heading("notumor") == "No tumor recognized"
    assert texts.heading("pituitary") == "Pituitary tumor"
    assert texts.label_text("low_grade") == "low grade"


def test_texts_are_escaped():
    assert "<b>" not in texts.notices([PredictionWarning("code", "<b>")]) + texts.refusal("<b>") + texts.caption(
        METHODS["grad_cam"], "<b>", None
    )


def test_phantoms_say_what_they_are():
    pictures = [image for _, image in phantoms()]
    assert all("synthetic phantom" in caption for caption, _ in phantoms())
    assert ImageChops.difference(pictures[0], pictures[1]).getbbox()
    assert all(np.asarray(image)[-22:].max() > 150 for image in pictures)  # the words on the picture


def test_the_page_offers_phantoms_and_the_scans_of_its_checkpoints(tiny, folder):
    examples = Path(tiny) / "examples"
    examples.mkdir()
    make_scan("pituitary", 5).save(examples / "pituitary.png")
    with served(tiny) as (page, _):
        [dataset] = [block for block in page.blocks.values() if isinstance(block, gr.Dataset)]
        names = [Path(sample[0]["path"]).name for sample in dataset.samples]
    assert names[-1] == "pituitary.png"
    assert all("synthetic phantom" in name for name in names[:-1])
    assert len(names) == len(phantoms()) + 1


# Nothing is kept, counted or told


def test_gradios_own_records_are_off(page, address):
    assert page.delete_cache == (60, KEPT_MINUTES * 60)
    assert page.analytics_enabled is False
    assert page.run_history is False
    assert page.enable_monitoring is False
    assert page.show_error is False
    assert page.max_file_size == 64 * 2**20
    assert httpx.get(f"{address}monitoring").status_code == 403
    assert httpx.get(f"{address}monitoring/summary").status_code == 403
    assert httpx.get(f"{address}gradio_api/runs").status_code == 404
    assert all(block.time_to_live for block in page.blocks.values() if isinstance(block, gr.State))


def test_the_page_fetches_nothing_from_elsewhere(address):
    for styles in (httpx.get(f"{address}theme.css").text, httpx.get(f"{address}config").json()["css"]):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", styles)


def test_after_sweeping_only_the_examples_are_left_and_the_app_works_on(page, client, address, scan):
    client.predict(image=handle_file(scan), api_name="/explain")
    broken_off = httpx.Client()
    with pytest.raises(RuntimeError, match="gone"):
        broken_off.post(f"{address}gradio_api/upload", content=breaks_off(), headers=MULTIPART)
    folder = Path(page.app.uploaded_file_dir)
    assert wait_until(lambda: [path for path in folder.iterdir() if path.is_file()], 5)
    examples = {file for block in page.blocks.values() for file in block.keep_in_cache}
    assert len(examples) == len(phantoms())
    sweep(folder, examples, seconds=60)
    assert list(folder.rglob("scan.png"))  # too young
    sweep(folder, examples, seconds=-1)
    assert {str(path) for path in folder.rglob("*") if path.is_file()} == examples
    assert {str(path) for path in folder.iterdir()} == {str(Path(file).parent) for file in examples}
    assert client.predict(image=handle_file(scan), api_name="/predict")["label"] in LABELS


def test_the_app_sweeps_by_itself(tiny, scan, monkeypatch):
    monkeypatch.setattr("brain_xai.ui.privacy.SWEEP_SECONDS", 0.05)
    monkeypatch.setattr("brain_xai.ui.privacy.KEPT_MINUTES", 0)
    with served(tiny) as (page, address):
        [path] = httpx.post(f"{address}gradio_api/upload", files={"files": scan.read_bytes()}).json()
        assert Path(path).is_relative_to(page.app.uploaded_file_dir)
        assert wait_until(lambda: not Path(path).parent.exists(), 5)
        assert len(list(Path(page.app.uploaded_file_dir).rglob("*.png"))) >= len(phantoms())


MULTIPART = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "1000000"}


def breaks_off():
    """The body of an upload that ends in the middle."""
    yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="secret.png"\r\n\r\n' + bytes(100_000)
    raise RuntimeError("gone")


def test_a_picture_deleted_meanwhile_is_asked_for_again(app, tmp_path):
    with pytest.raises(gr.Error, match=f"uploads are kept for {KEPT_MINUTES} minutes"):
        api.predict(upload(tmp_path / "gone.png"))


@pytest.mark.parametrize(
    "image",
    [
        *("/home/jane/jane-doe.png", 7, ["jane-doe"], {"path": ["jane-doe"]}),
        {"path": "/home/jane-doe.png", "meta": {"_type": "gradio.FileData"}},
    ],
)
def test_what_is_not_a_file_is_answered_with_a_sentence_and_not_logged(image, address, capfd):
    for data in ([image, "default"], [image], []):
        answer = call(address, data)
        assert "pass handle_file(path)" in answer
        assert "jane" not in answer
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_path_that_was_not_uploaded_is_not_read(address, scan):
    for image in (
        {"path": str(scan)},
        {"path": str(scan), "url": "http://localhost/scan.png", "meta": {}},
        {"path": str(scan), "meta": {"_type": "gradio.FileData"}},
    ):
        answer = call(address, [image, "default"])
        assert "pass handle_file(path)" in answer
        assert "probabilities" not in answer


def call(address: str, data: list) -> str:
    """Call /predict as curl does."""
    job = httpx.post(f"{address}gradio_api/call/predict", json={"data": data}).json()["event_id"]
    return httpx.get(f"{address}gradio_api/call/predict/{job}").text


def test_nothing_can_be_shared_with_a_public_site(page):
    configured = [
        (block["type"], block["props"].get("buttons") or ()) for block in page.get_config_file()["components"]
    ]
    assert {kind for kind, buttons in configured if buttons} >= {"gallery", "image"}
    assert not [kind for kind, buttons in configured if "share" in buttons]


def test_nothing_about_a_visitor_is_logged(client, scan, capfd):
    client.predict(image=handle_file(scan), api_name="/explain")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_app_py_serves_and_leaves_nothing_behind(tiny, scan, tmp_path):
    port = free_port()
    settings = {"BRAIN_XAI_CHECKPOINTS": tiny, "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(tmp_path)}
    command = [sys.executable, Path(__file__).parents[2] / "app.py"]
    with subprocess.Popen(command, env=os.environ | settings, stdout=PIPE, stderr=STDOUT, text=True) as app:
        try:
            assert wait_until(lambda: app.poll() is not None or is_served(port), 60)
            upload = httpx.post(f"http://127.0.0.1:{port}/gradio_api/upload", files={"files": scan.read_bytes()})
            assert Path(upload.json()[0]).is_file()
        finally:
            app.terminate()
            printed, _ = app.communicate(timeout=30)
    assert not list(tmp_path.glob("brain-xai-*"))
    assert "Traceback" not in printed


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_attribution_is_not_written_twice(page, client, scan):
    client.predict(image=handle_file(scan), api_name="/explain")
    files = list(Path(page.app.uploaded_file_dir).rglob("*.npy"))
    assert files
    assert all(np.load(io.BytesIO(file.read_bytes())).shape == (64, 64) for file in files)
