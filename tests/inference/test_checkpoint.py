"""The checkpoint format: other libraries read it, damaged files are refused, and each model is loaded once."""

import gc
import json
import re
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from brain_xai import load_checkpoint
from brain_xai.checkpoint.catalog import (
    ClassifierCache,
    allowed_checkpoints,
    bundled_checkpoints,
    checkpoint_folder,
)
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.checkpoint.schema import MAX_WEIGHTS_BYTES, CheckpointError
from brain_xai.preprocess import Preprocessing
from tests.helpers.scans import LABELS, make_scan

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
        brain_xai={"temperature": 2.0, "stored_as": str(dtype).removeprefix("torch.")},
    )
    return tmp_path


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.png"
    make_scan("glioma", 0, side=128).convert("RGB").save(path)
    return path


def test_timm_transformers_and_brain_xai_give_equal_logits(folder, scan, dtype):
    stored = load_file(folder / "model.safetensors").values()
    assert {value.dtype for value in stored if value.is_floating_point()} == {dtype}
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


def test_saving_does_not_change_the_model(tmp_path):
    model = timm.create_model("test_resnet", num_classes=4).to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_checkpoint(
        tmp_path, model, label_names=LABELS, preprocessing=PREPROCESSING, brain_xai={"stored_as": "float16"}
    )
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_the_revision_identifies_the_weights(folder):
    first = load_checkpoint(folder).info.revision
    config = json.loads((folder / "config.json").read_text())
    model = timm.create_model(config["architecture"], num_classes=4, **config["model_args"])
    save_checkpoint(
        folder, model, label_names=LABELS, preprocessing=PREPROCESSING, model_args=config["model_args"], brain_xai={}
    )
    assert load_checkpoint(folder).info.revision != first


def test_new_metrics_for_the_same_weights_are_read(sound):
    before = load_checkpoint(sound)
    assert load_checkpoint(sound) is before
    (sound / "metrics.json").write_text('{"split": "purged"}')
    assert load_checkpoint(sound).metrics == {"split": "purged"}
    (sound / "metrics.json").unlink()
    assert load_checkpoint(sound).info == before.info


@pytest.fixture
def folders(sound, tmp_path, monkeypatch):
    """Five allowed checkpoints."""
    names = [str(shutil.copytree(sound, tmp_path / str(number))) for number in range(5)]
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", ",".join(names))
    return names


def test_every_allowed_checkpoint_is_read_from_disk_once(folders):
    first = [load_checkpoint(name) for name in folders]
    load_checkpoint(bundled_checkpoints()[0])  # the fallback has a place of its own
    for _ in range(2):
        assert [load_checkpoint(name) for name in folders] == first  # classifiers are equal only if identical


def test_the_least_recently_used_models_are_freed(folders, monkeypatch):
    models = [weakref.ref(load_checkpoint(name).model) for name in folders]
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", folders[-1])
    for name in bundled_checkpoints():
        load_checkpoint(name)
    gc.collect()
    assert [model() is None for model in models] == [True, True, True, False, False]


def test_an_overwritten_model_is_freed(folders):
    outdated = weakref.ref(load_checkpoint(folders[0]).model)
    model = timm.create_model("test_resnet", num_classes=4)
    save_checkpoint(Path(folders[0]), model, label_names=LABELS, preprocessing=PREPROCESSING, brain_xai={})
    load_checkpoint(folders[0])
    gc.collect()
    assert outdated() is None


def test_threads_that_ask_at_once_share_one_model(folders):
    barrier = threading.Barrier(8)

    def load(_):
        barrier.wait()
        return load_checkpoint(folders[0])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load, range(8)))) == 1


def test_the_loaded_version_is_returned_while_a_new_one_loads(sound):
    cache, classifier = ClassifierCache(), load_checkpoint(sound)
    has_started, may_finish = threading.Event(), threading.Event()

    def load_slowly():
        has_started.set()
        assert may_finish.wait(100)
        return replace(classifier)

    assert cache.get("id", 1, lambda: classifier) is classifier
    with ThreadPoolExecutor() as pool:
        newer = [pool.submit(cache.get, "id", 2, load_slowly) for _ in range(2)]
        assert has_started.wait(100)
        assert cache.get("id", 1, pytest.fail) is classifier
        may_finish.set()
        assert newer[0].result() is newer[1].result() is not classifier


def test_a_version_that_fails_to_load_does_not_replace_the_loaded_one(sound):
    cache, classifier = ClassifierCache(), load_checkpoint(sound)
    with pytest.raises(ZeroDivisionError):
        cache.get("id", 1, lambda: 1 / 0)
    assert cache.get("id", 2, lambda: classifier) is classifier
    with pytest.raises(ZeroDivisionError):
        cache.get("id", 3, lambda: 1 / 0)
    assert cache.get("id", 2, pytest.fail) is classifier


def test_a_model_is_loaded_once_per_device(sound):
    on_cpu, on_meta = load_checkpoint(sound), load_checkpoint(sound, "meta")
    assert load_checkpoint(sound, device=torch.device("cpu")) is on_cpu
    assert load_checkpoint(sound, device="cpu") is on_cpu
    assert load_checkpoint(sound, device=torch.device("meta")) is on_meta
    assert {value.device.type for value in on_cpu.model.state_dict().values()} == {"cpu"}
    assert {value.device.type for value in on_meta.model.state_dict().values()} == {"meta"}
    assert on_meta.info == on_cpu.info


@pytest.mark.parametrize("device", ["cuda:99", "hpu", "banana", "", 99])
def test_a_missing_device_is_rejected_with_a_sentence(sound, device):
    with pytest.raises(CheckpointError, match=re.escape(f"The device {device!r} cannot be used on this machine")):
        load_checkpoint(sound, device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_probabilities(sound, scan):
    on_gpu = load_checkpoint(sound, device="cuda")
    assert next(on_gpu.model.parameters()).is_cuda
    assert load_checkpoint(sound, device=0) is on_gpu
    expected = load_checkpoint(sound).predict(scan).probabilities
    assert on_gpu.predict(scan).probabilities == pytest.approx(expected, abs=1e-3)  # TF32 has ten bits of mantissa


def test_bundled_checkpoints_are_small_and_the_best_comes_first():
    names = bundled_checkpoints()
    assert {load_checkpoint(name).info.architecture for name in names} == {"resnet18", "tf_efficientnetv2_b0"}
    scores = [load_checkpoint(name).metrics["validation"]["macro_f1"]["value"] for name in names]
    assert scores == sorted(scores, reverse=True)
    assert load_checkpoint("default") is load_checkpoint(names[0])


def test_allowed_checkpoints_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", " org/one@v1, some/folder ,")
    assert allowed_checkpoints() == ["org/one@v1", "some/folder"]
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", " ")
    assert allowed_checkpoints() == bundled_checkpoints()


@pytest.mark.parametrize("name", ["bundled/none", "bundled/../..", "no/such-repo", "../nowhere", ""])
def test_anything_but_a_checkpoint_is_rejected_with_a_sentence(name):
    with pytest.raises(CheckpointError):
        load_checkpoint(name)


# Invalid configs: the change to config.json, and the message that rejects it.
INVALID_CONFIGS = {
    "unknown architecture": ({"architecture": "resnet_from_mars"}, "which timm does not know"),
    "weights of elsewhere": ({"architecture": "hf-hub:org/other"}, "which timm does not know"),
    "no architecture": ({"architecture": None}, "which timm does not know"),
    "no labels": ({"label_names": None}, "has no label_names"),
    "labels of a wrong type": ({"label_names": [1, 2, 3, 4]}, "must be names"),
    "the same label twice": ({"label_names": ["a", "a", "b", "c"]}, "2 and 1000 different classes"),
    "fewer labels than weights": ({"label_names": ["a", "b"], "num_classes": 2}, r"fc.weight is \(4, 96\) in the file"),
    "labels and number differ": ({"num_classes": 5}, "names 4 classes, but its num_classes is '5'"),
    "a pickle to open": ({"model_args": {"checkpoint_path": "weights.pt"}}, "must not contain checkpoint_path"),
    "weights to fetch": ({"model_args": {"pretrained": True}}, "must not contain pretrained"),
    "classes twice": ({"model_args": {"num_classes": 4}}, "must not contain num_classes"),
    "unknown argument": ({"model_args": {"magic": 1}}, "timm cannot build test_resnet"),
    "huge argument": ({"model_args": {"channels": [10**9]}}, "is not an accepted value"),
    "a giant with small weights": ({"architecture": "vit_giant_patch14_224"}, "do not fit vit_giant"),
    "absurd input": ({"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "32 to 1024 pixels"),
    "input of a wrong type": ({"pretrained_cfg": {"input_size": "large"}}, "32 to 1024 pixels"),
    "no input": ({"pretrained_cfg": {"input_size": None}}, "32 to 1024 pixels"),
    "short mean": ({"pretrained_cfg": {"mean": [0.5]}}, "it must be three numbers"),
    "std of zero": ({"pretrained_cfg": {"std": [0, 1, 1]}}, "above zero"),
    "interpolation": ({"pretrained_cfg": {"interpolation": "magic"}}, "must be one of: nearest"),
    "temperature": ({"brain_xai": {"temperature": 0}}, "above zero"),
    "scale": ({"brain_xai": {"attribution_scale": {"grad_cam": "much"}}}, "above zero"),
    "own section": ({"brain_xai": []}, "is not an object"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    model = timm.create_model("test_resnet", num_classes=4)
    save_checkpoint(folder, model, label_names=LABELS, preprocessing=PREPROCESSING, brain_xai={})
    return folder


@pytest.fixture
def damaged(sound, tmp_path):
    """A copy of a sound checkpoint, for a test to damage."""
    return shutil.copytree(sound, tmp_path / "damaged")


@pytest.mark.parametrize("case", INVALID_CONFIGS)
def test_an_invalid_config_is_rejected_with_a_sentence(damaged, case):
    change, sentence = INVALID_CONFIGS[case]
    config = json.loads((damaged / "config.json").read_text())
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(damaged)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_rejected(damaged, value):
    weights = load_file(damaged / "model.safetensors")
    weights["fc.bias"][2] = value
    save_file(weights, damaged / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"not numbers \(in fc.bias\)"):
        load_checkpoint(damaged)


def test_weights_that_are_too_large_are_rejected_by_their_size(damaged):
    with (damaged / "model.safetensors").open("ab") as file:
        file.truncate(MAX_WEIGHTS_BYTES + 1)  # a sparse file, which takes no disk space
    with pytest.raises(CheckpointError, match="have 600 MB"):
        load_checkpoint(damaged)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.json", None, "has no config.json"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", b"\x80\x04pickle", "damaged or incomplete"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"[]", "not an object"),
        ("config.json", b"[" * 100_000, "cannot be read as JSON"),
        ("metrics.json", b'{"test": NaN}', "NaN is not a number"),
        ("metrics.json", b'{"test": {"accuracy": "high", "n": 3}}', "no valid measurements of the test images"),
        ("metrics.json", b'{"split": []}', "names no split"),
        ("metrics.json", b'{"shortcuts": {"kinds": {"web": {"tumor_or_not": 0.9}}}}', "scans from other sources"),
        ("explanations.json", b'{"methods": []}', "no valid measurements of the maps"),
        ("explanations.json", b'{"consensus_weights": {"grad_cam": "much"}}', "no valid measurements of the maps"),
        (
            "explanations.json",
            b'{"methods": {"grad_cam": {"pointing_game": 1}}}',
            "no valid measurements of 'grad_cam'",
        ),
        ("metrics.json", b'{"test": {"accuracy": {"value": 1, "low": 1, "high": 1}}}', "how many test images"),
    ],
)
def test_damaged_files_are_rejected_with_a_sentence(damaged, file, content, sentence):
    if content is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(damaged)


def test_truncated_weights_are_rejected(damaged):
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        load_checkpoint(damaged)


def test_the_folder_of_a_checkpoint_is_found_without_the_hub(sound):
    assert checkpoint_folder(str(sound)) == sound
    assert (checkpoint_folder(bundled_checkpoints()[0]) / "config.json").is_file()
    assert checkpoint_folder("org/never-downloaded@v1") is None
    assert checkpoint_folder("no/such/thing") is None
