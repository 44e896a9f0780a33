"""Any folder of classes, and a small CNN: odd names, few images, no healthy class, a class that no test image has."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from gradio_client import Client, handle_file
from transformers import AutoModelForImageClassification

from brain_xai import METHODS, explain, load_checkpoint
from brain_xai.small_cnns import SMALL_CNNS
from brain_xai.ui import wording
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import served
from tests.helpers.training_runs import ENVIRONMENT, ROOT, launched, run

# Images for training and for testing of each class.
CLASSES = {"Grad 1 | 2": (3, 1), "Sonstige": (1, 0), "low grade": (2, 1), "Ödem (groß)": (6, 2)}
# Without the small CNN's package.
NOT_FOR_IT = {"attention_relevance"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd") / "my scans [2024]"
    for name, kind, counts in zip(CLASSES, LABELS, CLASSES.values(), strict=True):
        for folder, seeds in (("Training", range(counts[0])), ("Testing", range(10, 10 + counts[1]))):
            for seed in seeds:
                (root / folder / name).mkdir(parents=True, exist_ok=True)
                make_scan(kind, seed).save(root / folder / name / f"{seed}.png")
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "deep"
    settings = "--model brain_xai_deep --no-pretrained --sizes 32:1,48:1 --batch-size 4 --learning-rate 0.01 --seed 1"
    script = ["training/train.py", "--data-dir", str(data), "--output-dir", str(output), *settings.split()]
    done = run(launched(script))
    assert done.returncode == 0, done.stderr[-3000:]
    assert not re.search(r"\w+Warning", done.stderr), done.stderr[-3000:]
    return output


def test_it_is_trained_and_measured(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["data"]["n"] == {"train": 9, "validation": 3, "test": 4}
    test = metrics["test"]
    assert test["label_names"] == sorted(CLASSES)
    assert test["tumor_miss_rate"] is None
    # No test image has this class: nothing can be said about it, and the means leave it out.
    assert test["recall"]["Sonstige"]["value"] is test["auroc"]["Sonstige"]["value"] is None
    assert test["balanced_accuracy"]["value"] == pytest.approx(
        np.mean([entry["value"] for label, entry in test["recall"].items() if label != "Sonstige"])
    )
    assert 0 <= test["ece"]["value"] <= 1
    examples = {file.stem for file in (trained / "examples").glob("*.png")}
    assert examples == set(CLASSES) - {"Sonstige"}


def test_a_small_cnn_gives_the_same_logits_everywhere_and_is_explained_by_every_method_for_cnns(trained):
    classifier = load_checkpoint(trained)
    assert classifier.info.architecture == "brain_xai_deep" in SMALL_CNNS
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    expected = classifier.logits(images)
    with torch.inference_mode():
        by_timm = timm.create_model(f"local-dir:{trained}", pretrained=True).eval()(images)
        by_transformers = AutoModelForImageClassification.from_pretrained(trained).eval()(images).logits
    # The same float32 sums, in another memory format.
    assert torch.allclose(by_timm, expected, atol=1e-5)
    assert torch.allclose(by_transformers, expected, atol=1e-5)
    scan = make_scan("glioma", 3)
    assert {key for key, method in METHODS.items() if method.reason_unsupported(classifier)} == NOT_FOR_IT
    for key in METHODS.keys() - NOT_FOR_IT:
        settings = {"window": 0.5, "stride": 0.5} if key == "occlusion" else {}
        assert np.isfinite(explain(classifier, scan, key, "low grade", **settings).attribution).all()


def test_its_card_says_what_others_need_and_its_snippet_runs(trained, tmp_path):
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert all(f"`{label}`".replace("|", r"\|") in card for label in CLASSES)
    assert "No test image was misclassified" in card or "Most frequent errors" in card
    assert "tumor" not in re.search(r"## Results\n.*?## ", card, re.DOTALL).group().casefold()
    assert "timm and transformers do not know `brain_xai_deep`" in card
    snippet = re.search(r"```python\n(import brain_xai .*?)```", card, re.DOTALL).group(1)
    make_scan("glioma", 3).save(tmp_path / "scan.png")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{snippet.replace('FOLDER', str(trained))}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.loads(done.stdout.replace("'", '"'))
    # The card has the temperature with four digits.
    assert printed == pytest.approx(load_checkpoint(trained).predict(tmp_path / "scan.png").probabilities, abs=1e-3)


def test_page_and_api_know_its_classes(trained, tmp_path):
    make_scan("glioma", 3).save(tmp_path / "scan.png")
    classifier = load_checkpoint(trained)
    prediction = classifier.predict(tmp_path / "scan.png")
    assert {label for _, label in wording.rows(prediction)} == set(CLASSES)
    assert "tumor" not in wording.sentence(classifier, prediction).casefold()
    with served(str(trained)) as (_, address):
        client = Client(address, verbose=False)
        answer = client.predict(handle_file(tmp_path / "scan.png"), api_name="/predict")
        assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-6)
        for spelled in ("Ödem (groß)", "ÖDEM groß"):
            *_, facts = client.predict(handle_file(tmp_path / "scan.png"), target=spelled, api_name="/explain")
            assert facts["label"] == "Ödem (groß)"
