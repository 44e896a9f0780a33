"""The endpoints: their contract, and one caller beside another."""

import asyncio
import hashlib
import json
import re
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import Status
from PIL import Image

from brain_xai import METHODS, explain, load_checkpoint
from brain_xai.summary import summarize
from brain_xai.ui import api
from brain_xai.ui.page import build_page
from tests.helpers.at_hub import use
from tests.helpers.scans import LABELS
from tests.helpers.served import METRICS, free_port, job_threads, save_tiny_checkpoint, served, upload, wait_until
from tests.helpers.studies import head, write_nifti

SIZES = {"width": 90, "height": 90, "model_width": 64, "model_height": 64}
FOR_CNNS = [key for key in METHODS if key != "attention_relevance"]
POINTING = {"value": 0.744, "low": 0.69, "high": 0.791, "n": 300}


RECORDED = Path(__file__).with_name("api_schema.json")
RENEW = (
    "The API has changed. If that is intended, note it in CHANGELOG.md and write this to tests/ui/api_schema.json:\n{}"
)


@pytest.fixture(scope="module")
def measured(folder) -> str:
    """A checkpoint whose Grad-CAM was measured."""
    checkpoint = Path(save_tiny_checkpoint(folder / "measured", LABELS))
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    explanations = {"checkpoint": {"revision": digest[:12]}, "methods": {"grad_cam": {"pointing_game": POINTING}}}
    (checkpoint / "explanations.json").write_text(json.dumps(explanations))
    return str(checkpoint)


@pytest.fixture(scope="module")
def address(tiny, slow, transformer, measured):
    with served(tiny, slow, transformer, measured) as (_, address):
        yield address


@pytest.fixture(scope="module")
def client(address, folder) -> Client:
    return Client(address, verbose=False, download_files=folder / "downloads", analytics_enabled=False)


def describe_api(address: str, names: dict[str, str]) -> dict:
    """What callers are told about each endpoint, with other names for the checkpoints."""
    text = httpx.get(f"{address}gradio_api/info").text
    for checkpoint, name in names.items():
        text = text.replace(json.dumps(checkpoint)[1:-1], name)
    return {
        name: {
            "description": endpoint["description"],
            "parameters": {
                parameter["parameter_name"]: {
                    "type": parameter["python_type"]["type"],
                    "default": parameter["parameter_default"] if parameter["parameter_has_default"] else "(required)",
                }
                for parameter in endpoint["parameters"]
            },
            "returns": {entry["label"]: entry["python_type"]["type"] for entry in endpoint["returns"]},
        }
        for name, endpoint in json.loads(text)["named_endpoints"].items()
    }


def assert_same_image(file: str, expected: Image.Image) -> None:
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert np.abs(np.asarray(image.convert("RGB"), dtype=int) - np.asarray(expected)).max() <= 1


def test_predict(client, scan, tiny):
    answer = client.predict(image=handle_file(scan), api_name="/predict")
    classifier = load_checkpoint(tiny)
    prediction = classifier.predict(scan)
    assert list(answer) == ["label", "probabilities", "checkpoint", "input", "warnings", "seconds"]
    assert answer["label"] == prediction.label
    assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-6)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["checkpoint"] == {"id": tiny, "revision": classifier.info.revision, "architecture": "test_resnet"}
    assert answer["input"] == {**SIZES, "part": [0, 0, 1, 1]}
    assert answer["warnings"] == []
    assert answer["seconds"] > 0


def test_a_photograph_is_warned_about(client, tmp_path):
    Image.new("RGB", (90, 90), (200, 90, 20)).save(tmp_path / "photo.png")
    photo = handle_file(tmp_path / "photo.png")
    answer = client.predict(image=photo, api_name="/predict")
    _, _, facts = client.predict(image=photo, api_name="/explain")
    assert [warning["code"] for warning in answer["warnings"] + facts["warnings"]] == ["not_brain_mri"] * 2


@pytest.mark.parametrize(("method", "target"), [("grad_cam", "predicted"), ("occlusion", "pituitary")])
def test_explain(method, target, client, scan, tiny):
    overlay, attribution, facts = client.predict(
        image=handle_file(scan), method=method, target=target, api_name="/explain"
    )
    explanation = explain(load_checkpoint(tiny), scan, method, target)
    values = np.load(attribution, allow_pickle=False)
    assert values.dtype == np.float32
    assert values.shape == (64, 64)
    assert values == pytest.approx(explanation.attribution, abs=1e-5)
    assert_same_image(overlay, explanation.image())
    assert list(facts) == [
        *("method", "target", "label", "prediction", "unit", "scale", "signed"),
        *("settings", "quality", "summary", "input", "warnings", "checkpoint", "seconds"),
    ]
    assert facts["input"] == {**SIZES, "part": [0, 0, 1, 1]}
    assert facts["signed"] is METHODS[method].signed
    assert facts["summary"] == summarize(explanation, classifier=load_checkpoint(tiny)).sentence
    assert (facts["method"], facts["label"]) == (method, explanation.label)
    assert facts["unit"] == METHODS[method].unit
    assert facts["scale"] == explanation.scale
    assert facts["prediction"]["label"] == explanation.prediction.label
    assert facts["prediction"]["probabilities"] == pytest.approx(explanation.prediction.probabilities, abs=1e-6)
    assert LABELS[facts["target"]] == explanation.label
    assert facts["quality"] is None
    assert facts["checkpoint"]["id"] == tiny
    if target != "predicted":
        assert facts["label"] == target


def test_compare(client, scan, tiny):
    gallery, attributions, facts = client.predict(image=handle_file(scan), target="pituitary", api_name="/compare")
    assert [entry["caption"] for entry in gallery] == list(facts["methods"]) == FOR_CNNS
    assert list(facts["not_applicable"]) == ["attention_relevance"]
    assert (facts["label"], LABELS[facts["target"]]) == ("pituitary", "pituitary")
    classifier = load_checkpoint(tiny)
    assert facts["prediction"]["label"] == classifier.predict(scan).label
    for entry in gallery[:2]:
        explanation = explain(classifier, scan, entry["caption"], "pituitary")
        numbers = facts["methods"][entry["caption"]]
        assert numbers["summary"].endswith(".")
        assert (numbers["unit"], numbers["scale"]) == (METHODS[explanation.method].unit, explanation.scale)
        assert_same_image(entry["image"], explanation.image())
        with np.load(attributions, allow_pickle=False) as maps:
            assert list(maps) == FOR_CNNS
            assert maps[entry["caption"]] == pytest.approx(explanation.attribution, abs=1e-5)


def test_compare_names_the_methods_that_cannot_work(client, scan, transformer):
    gallery, _, facts = client.predict(image=handle_file(scan), checkpoint=transformer, api_name="/compare")
    assert "test_vit has none" in facts["not_applicable"]["grad_cam"]
    assert {entry["caption"] for entry in gallery} | set(facts["not_applicable"]) == set(METHODS)


def test_the_measured_quality_of_a_method_comes_with_its_map(client, scan, measured):
    *_, facts = client.predict(image=handle_file(scan), checkpoint=measured, api_name="/explain")
    assert facts["quality"] == {"pointing_game": POINTING}


def test_checkpoints(client, tiny, slow, transformer, measured):
    listed = client.predict(api_name="/checkpoints")
    assert [entry["id"] for entry in listed] == [tiny, slow, transformer, measured]  # the default first
    assert listed[1]["label_names"] == ["low_grade", "high_grade"]
    assert listed[0]["revision"] == load_checkpoint(tiny).info.revision
    assert listed[0]["metrics"] == {key: value for key, value in METRICS.items() if key != "history"}


def test_methods(client, scan, measured, transformer):
    listed = {entry["key"]: entry for entry in client.predict(checkpoint=measured, api_name="/methods")}
    assert list(listed) == list(METHODS)
    assert listed["grad_cam"]["quality"] == {"pointing_game": POINTING}
    assert listed["saliency"]["quality"] is None
    assert listed["occlusion"]["settings"] == {"window": 0.2, "stride": 1 / 16}
    assert listed["grad_cam"]["settings"] == {}
    for key, entry in listed.items():
        method = METHODS[key]
        assert (entry["unit"], entry["signed"], entry["passes"]) == (method.unit, method.signed, method.forward_passes)
        assert (entry["not_possible_because"] is None) == (key in FOR_CNNS)
    other = {entry["key"]: entry for entry in client.predict(checkpoint=transformer, api_name="/methods")}
    assert "test_vit has none" in other["grad_cam"]["not_possible_because"]


def test_the_overlay_as_the_caller_wants_it(client, scan, tiny):
    explanation = explain(load_checkpoint(tiny), scan, target="glioma")
    question = {"image": handle_file(scan), "target": "glioma", "api_name": "/explain"}
    overlay, _, _ = client.predict(opacity=0.2, outline=True, size="model", bar="none", **question)
    assert_same_image(overlay, explanation.image(0.2, True, on="model", bar="none"))


def test_the_windows_of_occlusion(client, scan):
    question = {"image": handle_file(scan), "method": "occlusion", "api_name": "/explain"}
    _, _, facts = client.predict(window=0.5, stride=0.25, **question)
    assert (facts["settings"]["window"], facts["settings"]["stride"]) == ([32, 32], [16, 16])


@pytest.mark.parametrize("target", ["no tumor", "No Tumour", "no_tumor", "notumor", 2, "2", 2.0])
def test_a_class_may_be_spelled_differently(target, client, scan):
    _, _, facts = client.predict(image=handle_file(scan), target=target, api_name="/explain")
    assert (facts["label"], facts["target"]) == ("notumor", 2)


def test_progress_and_the_place_in_the_queue_are_reported(client, scan, slow):
    question = {"image": handle_file(scan), "checkpoint": slow, "method": "occlusion", "api_name": "/explain"}
    running = client.submit(**question)
    assert wait_until(lambda: running.status().progress_data)
    [step] = running.status().progress_data
    assert 0 < step.index <= step.length
    assert step.unit == "passes"
    waiting = client.submit(**question)
    assert wait_until(lambda: waiting.status().code is Status.IN_QUEUE)
    assert waiting.status().rank == 0
    waiting.cancel()
    running.cancel()
    assert wait_until(lambda: not job_threads())


def test_the_schema_is_the_recorded_one(address, tiny, slow, transformer, measured):
    """Whoever changes the API has to see and to commit the change."""
    names = {tiny: "org/first", slow: "org/second", transformer: "org/third", measured: "org/fourth"}
    current = describe_api(address, names)
    assert current == json.loads(RECORDED.read_text()), RENEW.format(json.dumps(current, indent=1))


def test_the_api_speaks_english_whatever_language_a_call_asks_for(address, folder, scan, client):
    german = {"headers": {"Accept-Language": "de"}, "download_files": folder / "german"}
    german_client = Client(address, verbose=False, analytics_enabled=False, **german)
    (folder / "note.png").write_text("Es tut weh.")
    calls = [{"image": handle_file(folder / "note.png")}, {"image": handle_file(scan), "checkpoint": "?"}]
    for call in calls:
        said = []
        for caller in (client, german_client):
            with pytest.raises(AppError) as error:
                caller.predict(**call, api_name="/predict")
            said.append(error.value.message)
        assert said[0] == said[1]
    volume = write_nifti(folder / "a.nii.gz", head(slices=2).transpose(2, 1, 0), np.diag([-1.0, -1, 5, 1]))
    report = german_client.predict(files=[handle_file(volume)], api_name="/study")[3]
    assert "Not for diagnosis" in Path(report).read_text()


def test_these_endpoints_and_no_others_are_public(address):
    config = httpx.get(f"{address}config").json()
    callable_by_clients = {d["api_name"] for d in config["dependencies"] if d["api_visibility"] != "private"}
    assert {f"/{name}" for name in callable_by_clients} == set(json.loads(RECORDED.read_text()))


def test_another_checkpoint_by_its_id(client, scan, slow):
    answer = client.predict(image=handle_file(scan), checkpoint=slow, api_name="/predict")
    assert set(answer["probabilities"]) == {"low_grade", "high_grade"}
    assert answer["checkpoint"]["id"] == slow


def test_only_allowed_checkpoints_reach_the_loader(client, scan, folder, tiny):
    forbidden = save_tiny_checkpoint(folder / "forbidden", LABELS)
    for name in (forbidden, f"{tiny}/../forbidden", "bundled/x", "org/repo", "", None, [tiny]):
        with pytest.raises(AppError, match=re.escape(f"Use one of: default, {tiny},")) as error:
            client.predict(image=handle_file(scan), checkpoint=name, api_name="/predict")
        assert "forbidden" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"method": "magic"}, "no such method. Use one of: grad_cam, hires_cam"),
        ({"method": ["grad_cam"]}, "no such method"),
        ({"target": "gliosis"}, "Use one of: predicted, glioma, meningioma, notumor, pituitary"),
        ({"target": 4}, "not a class"),
        ({"target": True}, "not a class"),
        ({"opacity": 1.5}, "opacity must be a number from 0 to 1"),
        ({"opacity": "much"}, "opacity must be a number"),
        ({"outline": "yes"}, "outline must be true or false"),
        ({"bar": "loud"}, "bar must be one of: words, numbers, none"),
        ({"size": "huge"}, "size must be one of: original, model"),
        ({"window": 0.3}, "grad_cam has no setting 'window'"),
        ({"method": "occlusion", "stride": 0.001}, "stride must be a number from 0.03125 to 1"),
        ({"method": "occlusion", "window": 0.1, "stride": 0.5}, "0 < stride <= window"),
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
    with pytest.raises(gr.Error, match="cannot be loaded at the moment") as error:
        api.predict(upload(scan), str(broken))
    assert str(folder) not in error.value.message
    assert f"{broken} cannot be loaded" in capfd.readouterr().err  # the maintainer reads why
    assert [entry["id"] for entry in api.checkpoints()] == [tiny]


def test_another_model_never_answers_for_the_id_that_was_asked(scan, tmp_path, monkeypatch):
    use(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)  # the Hub is away
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", "org/never-fetched")
    for name in ("org/never-fetched", "default"):
        with pytest.raises(gr.Error, match=r"No other model answers in its place\. Try again"):
            api.predict(upload(scan), name)
        with pytest.raises(gr.Error, match="No other model answers"):
            asyncio.run(api.explain(api.ExplainCall(upload(scan), name)))
    assert api.checkpoints() == []


def test_no_checkpoint_at_all_ends_with_a_sentence(monkeypatch, tmp_path):
    monkeypatch.delenv("BRAIN_XAI_CHECKPOINTS", raising=False)
    monkeypatch.setattr("brain_xai.checkpoint.catalog.BUNDLED", tmp_path)
    with pytest.raises(SystemExit, match="no checkpoint to serve"):
        build_page()


def test_cancelling_the_job_stops_explain_on_the_server(client, scan, slow):
    job = client.submit(image=handle_file(scan), checkpoint=slow, method="occlusion", api_name="/explain")
    assert wait_until(job_threads)
    job.cancel()
    assert wait_until(lambda: not job_threads())
    assert client.predict(image=handle_file(scan), api_name="/predict")["label"] in LABELS


def test_a_slow_map_of_one_visitor_does_not_hold_up_another(address, client, scan, slow):
    other = Client(address, verbose=False, analytics_enabled=False)
    job = client.submit(image=handle_file(scan), checkpoint=slow, method="occlusion", api_name="/explain")
    assert wait_until(job_threads)
    other.predict(image=handle_file(scan), api_name="/predict")
    assert not job.done()
    job.cancel()
    assert wait_until(lambda: not job_threads())
