import json

import pytest
import timm
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from brain_xai import load_checkpoint
from brain_xai.checkpoint import CheckpointError, allowed_checkpoints, bundled_checkpoints, save_checkpoint
from brain_xai.preprocess import Preprocessing
from tests.scans import LABELS, make_scan

PREPROCESSING = Preprocessing((96, 96), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MODELS = {
    "test_resnet": {},
    "test_efficientnet": {},
    "resnet18": {"layers": [2, 2, 2, 0], "channels": [64, 128, 256, 256]},
}


@pytest.fixture(params=[torch.float32, torch.float16], ids=["float32", "float16"])
def dtype(request):
    return request.param


@pytest.fixture(params=MODELS)
def folder(request, dtype, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(request.param, num_classes=4, **MODELS[request.param])
    save_checkpoint(
        tmp_path,
        model.to(memory_format=torch.channels_last),
        label_names=LABELS,
        preprocessing=PREPROCESSING,
        model_args=MODELS[request.param],
        brain_xai={"temperature": 2.0},
        dtype=dtype,
    )
    return tmp_path


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.png"
    make_scan("glioma", 0, side=128).convert("RGB").save(path)
    return path


def test_timm_transformers_and_we_give_equal_logits(folder, scan):
    classifier = load_checkpoint(folder)
    pixel_values = classifier.prepare(scan).pixel_values
    ours = classifier.logits(pixel_values)

    from_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=from_timm))
    processor = AutoImageProcessor.from_pretrained(folder)
    from_transformers = AutoModelForImageClassification.from_pretrained(folder).eval()
    pipe = pipeline("image-classification", model=str(folder), top_k=4)
    with torch.inference_mode(), make_scan("glioma", 0, side=128).convert("RGB") as image:
        torch.testing.assert_close(transform(image)[None], pixel_values, atol=1e-6, rtol=0)
        torch.testing.assert_close(from_timm(pixel_values), ours, atol=1e-5, rtol=0)
        theirs = processor(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(from_transformers(theirs).logits, ours, atol=1e-5, rtol=0)
        answers = {answer["label"]: answer["score"] for answer in pipe(str(scan))}
    expected = dict(zip(LABELS, torch.softmax(ours[0], 0).tolist(), strict=True))
    assert answers == pytest.approx(expected, abs=1e-5)


def test_probabilities_are_calibrated_by_the_temperature(folder, scan):
    classifier = load_checkpoint(folder)
    logits = classifier.logits(classifier.prepare(scan).pixel_values)[0]
    prediction = classifier.predict(scan)
    assert list(prediction.probabilities.values()) == pytest.approx(torch.softmax(logits / 2, 0).tolist(), abs=1e-6)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.label == LABELS[logits.argmax()]


def test_the_saved_model_stays_as_it_was(tmp_path):
    model = timm.create_model("test_resnet", num_classes=4).to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_checkpoint(tmp_path, model, label_names=LABELS, preprocessing=PREPROCESSING, brain_xai={}, dtype=torch.float16)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_revision_names_the_weights(folder):
    first = load_checkpoint(folder).info.revision
    config = json.loads((folder / "config.json").read_text())
    model = timm.create_model(config["architecture"], num_classes=4, **config["model_args"])
    save_checkpoint(
        folder, model, label_names=LABELS, preprocessing=PREPROCESSING, model_args=config["model_args"], brain_xai={}
    )
    assert load_checkpoint(folder).info.revision != first


def test_bundled_checkpoints_are_small_and_the_best_comes_first():
    names = bundled_checkpoints()
    assert {load_checkpoint(name).info.architecture for name in names} == {"resnet18", "efficientnet_b0"}
    scores = [load_checkpoint(name).metrics["validation"]["macro_f1"]["value"] for name in names]
    assert scores == sorted(scores, reverse=True)
    assert load_checkpoint("default") is load_checkpoint(names[0])


def test_allowed_checkpoints_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", " org/one@v1, some/folder ,")
    assert allowed_checkpoints() == ["org/one@v1", "some/folder"]
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", " ")
    assert allowed_checkpoints() == bundled_checkpoints()


@pytest.mark.parametrize("name", ["bundled/none", "bundled/../..", "no/such-repo", "../nowhere", ""])
def test_what_is_no_checkpoint_is_refused_with_a_sentence(name):
    with pytest.raises(CheckpointError):
        load_checkpoint(name)


@pytest.mark.parametrize("damage", ["config", "weights", "truncated", "architecture", "labels"])
def test_damaged_folders_are_refused_with_a_sentence(tmp_path, damage):
    model = timm.create_model("test_resnet", num_classes=4)
    save_checkpoint(tmp_path, model, label_names=LABELS, preprocessing=PREPROCESSING, brain_xai={})
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    content = json.loads(config.read_text())
    if damage == "config":
        config.unlink()
    elif damage == "weights":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "architecture":
        config.write_text(json.dumps(content | {"architecture": "resnet_from_mars"}))
    else:
        config.write_text(json.dumps(content | {"label_names": ["one", "two"]}))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)
