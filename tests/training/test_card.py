"""The model card: its numbers come from the data, the Hub can read its front matter, its snippets run."""

import ast
import contextlib
import hashlib
import io
import itertools
import json
import re
from datetime import timedelta

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from jinja2 import UndefinedError
from PIL import Image

from brain_xai.checkpoint.catalog import BUNDLED
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.preprocess import Preprocessing
from tests.helpers.measured import ENTRY, shortcuts
from tests.helpers.scans import LABELS
from tests.helpers.served import served
from training.report.card import card_of, model_card
from training.report.figures import save_figures


def make_config(temperature=1.25, size=160):
    return {
        "architecture": "resnet",
        "label_names": list(LABELS),
        "pretrained_cfg": {"input_size": [3, size, size]},
        "brain_xai": {"temperature": temperature},
    }


def make_metrics(split="purged", first=0.5, count=50, step=7):
    """Return a metrics.json whose scores rise from `first` in steps of 0.001 and its counts from `count` by `step`."""
    scores, counts = itertools.count(first, 0.001), itertools.count(count, step)

    def entry():
        return {"low": next(scores), "value": next(scores), "high": next(scores)}

    def evaluated():
        scalars = ("accuracy", "balanced_accuracy", "macro_f1", "auroc_macro", "nll", "brier", "ece")
        metrics = {name: entry() for name in (*scalars, "tumor_miss_rate")}
        metrics |= {name: {label: entry() for label in LABELS} for name in ("precision", "recall", "f1", "auroc")}
        return metrics | {
            "confusion_matrix": [[next(counts) for _ in LABELS] for _ in LABELS],
            "bins": [{"low": 0.5, "high": 1.0, "count": 5, "probability": 0.9, "accuracy": 0.8}],
            "n": next(counts),
            "groups": next(counts),
            "label_names": list(LABELS),
            "interval": {"level": next(scores), "method": "bootstrap", "samples": next(counts), "seed": 0},
        }

    epoch = {"epoch": 1, "size": 160, "train_loss": 0.5, "train_accuracy": 0.5, "validation_loss": 0.5}
    return {
        "split": split,
        "seed": next(counts),
        "command": "accelerate launch training/train.py --model resnet --split purged",
        "init": "random weights",
        "data": {
            "source": "scans",
            "fingerprint": "abcdef",
            "images": next(counts),
            "distinct_pictures": next(counts),
            "test_images": next(counts),
            "test_images_with_copy_in_train": next(counts),
            "left_out": next(counts),
            "n": {"train": next(counts), "validation": next(counts), "test": next(counts)},
        },
        "training": {
            "seconds": 60.0 * next(counts),
            "images_per_second": float(next(counts)),
            "bare_images_per_second": float(next(counts)),
            "data_wait_share": next(scores),
            "epochs": next(counts),
            "best_epoch": next(counts),
            "device": "cpu",
            "processes": next(counts),
        },
        "versions": {"torch": f"{next(counts)}.0"},
        "validation": evaluated(),
        "test": evaluated(),
        "history": [epoch | {"validation_accuracy": 0.5, "validation_macro_f1": 0.5}],
    }


@pytest.fixture(scope="module")
def card():
    return model_card(make_config(), make_metrics(), official=make_metrics("official", first=0.3, count=700, step=3))


def prose(text):
    return re.sub(r"```python.*?```", "", text, flags=re.DOTALL)


def numbers(text):
    """Return all numbers of a text, but not the digits of names such as F1 and T1."""
    return set(re.findall(r"(?<![\w.,])\d+(?:[.,:]\d+)*", prose(text)))


def test_every_number_comes_from_the_data():
    one = model_card(make_config(1.25, 160), make_metrics())
    other = model_card(make_config(0.8, 96), make_metrics(first=0.2, count=3001, step=100))
    assert len(numbers(one)) > 100
    assert numbers(one) & numbers(other) == set()


def test_front_matter_is_what_the_hub_expects(card):
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "mit")
    assert {"timm", "mri", "explainability"} <= set(data.tags)
    assert data.datasets is None, "a folder is no data set on the Hub"
    config = make_config()
    config["brain_xai"]["training"] = {"dataset": "org/scans"}
    metrics = make_metrics()
    metrics["data"]["source"] = "org/scans"
    data = ModelCard(model_card(config, metrics)).data
    assert data.datasets == ["org/scans"]
    assert {result.dataset_type for result in data.eval_results} == {"org/scans"}


def test_model_index_holds_every_metric_of_both_splits(card):
    results = ModelCard(card).data.eval_results
    for run in (make_metrics(), make_metrics("official", first=0.3, count=700, step=3)):
        split = run["split"]
        of_split = {result.metric_name: result for result in results if result.dataset_config == split}
        assert len(of_split) == 8 + 4 * 4
        for name, entry in {
            "Accuracy": run["test"]["accuracy"],
            "Macro-F1": run["test"]["macro_f1"],
            "Tumor miss rate": run["test"]["tumor_miss_rate"],
            "AUROC, pituitary": run["test"]["auroc"]["pituitary"],
        }.items():
            result = of_split[name]
            assert result.metric_value == pytest.approx(entry["value"], abs=5e-5)
            assert result.metric_args == pytest.approx({"low": entry["low"], "high": entry["high"]}, abs=5e-5)
            assert (result.dataset_split, result.dataset_name) == ("test", f"scans, {split} split")
            assert result.dataset_args == {"n": run["test"]["n"], "groups": run["test"]["groups"], "seed": run["seed"]}
        assert of_split["Macro-F1"].metric_type == "f1"


def test_the_facts_a_reader_needs_are_stated(card):
    text, metrics = " ".join(card.split()), make_metrics()
    assert "not a medical device and never gives a diagnosis" in text
    data = metrics["data"]
    copies, published = data["test_images_with_copy_in_train"], data["test_images"]
    assert f"Only {data['distinct_pictures']} of the {data['images']} images are distinct" in text
    assert (
        f"Of the {published} images of the published test set, {copies} ({copies / published:.0%}) have a copy" in text
    )
    assert f"{data['left_out']} files could not be read" in text
    assert f"```bash {metrics['command']} ```" in text
    assert "| Test images | purged split | official split |" in text
    assert "The official split is only for comparison with other work." in text
    assert f"Time: {timedelta(seconds=metrics['training']['seconds'])} (h:mm:ss)" in text
    for heading in (
        "Intended use",
        "Limitations",
        "How to use",
        "Training data",
        "Results",
        "Calibration",
        "Training",
        "Checklist",
    ):
        assert re.search(f"^##+ {heading}$", card, re.MULTILINE)


def test_notes_about_one_checkpoint_are_limitations():
    note = "It was stopped early."
    text = model_card(make_config(), make_metrics() | {"notes": [note, "A second one."]})
    limitations = text.split("## Limitations\n")[1].split("\n## ")[0]
    assert limitations.endswith(f"- {note}\n- A second one.\n")
    assert note not in model_card(make_config(), make_metrics())


def test_several_runs_are_distinguished_from_one():
    metrics = make_metrics()
    assert "- Epochs: " in model_card(make_config(), metrics)
    text = model_card(make_config(), metrics | {"command": "first\nsecond"})
    assert "- Epochs of the last run: " in text
    assert "- Time of all runs: " in text


@pytest.mark.parametrize("file", sorted(BUNDLED.glob("*/README.md")), ids=lambda file: file.parent.name)
def test_bundled_cards_are_up_to_date(file):
    """Otherwise run: python -m training.publish bundle brain_xai/bundled/NAME NAME."""
    assert file.read_text(encoding="utf-8") == card_of(file.parent)


def test_errors_are_named_most_frequent_first():
    metrics = make_metrics()
    metrics["test"]["confusion_matrix"] = [[50, 0, 3, 0], [4, 50, 0, 19], [0, 11, 50, 0], [0, 0, 0, 50]]
    assert (
        "Most frequent errors: `meningioma` classified as `pituitary` (19); `notumor` classified as `meningioma` (11); "
        "`meningioma` classified as `glioma` (4)."
    ) in model_card(make_config(), metrics)
    metrics["test"]["confusion_matrix"] = np.diag([5, 5, 5, 5]).tolist()
    assert "No test image was misclassified." in model_card(make_config(), metrics)


def test_sections_that_do_not_apply_are_left_out():
    metrics = make_metrics("grouped")
    metrics["test"]["tumor_miss_rate"] = None
    metrics["test"]["recall"]["glioma"] = metrics["test"]["ece"] = {"value": None, "low": None, "high": None}
    metrics["data"] |= {"left_out": 0, "test_images": 0}
    text = model_card(make_config(), metrics)
    for absent in ("miss rate", "miss_rate", "Unreadable", "published test set", "official", "None"):
        assert absent not in prose(text), absent
    assert "Recall, glioma" not in [result.metric_name for result in ModelCard(text).data.eval_results]
    assert "All images were split again" in text


def test_missing_data_is_an_error():
    metrics = make_metrics()
    del metrics["command"]
    with pytest.raises(UndefinedError, match="command"):
        model_card(make_config(), metrics)


def test_markdown_holds_no_template_code_and_complete_tables(card):
    body = ModelCard(card).text
    assert "{{" not in body
    assert "{%" not in body
    assert "\n\n\n" not in body
    for table in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_every_figure_of_the_card_is_drawn(card, tmp_path):
    metrics = make_metrics()
    metrics["training"]["best_epoch"] = 1  # the only one of its history
    save_figures(metrics, tmp_path / "figures")
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card)
    assert len(shown) == 3
    assert all((tmp_path / name).is_file() for name in shown)


def run(snippet, folder):
    """Run a snippet of a card and return what it printed."""
    code = snippet.replace("FOLDER", str(folder / "checkpoint")).replace("scan.png", str(folder / "scan.png"))
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    return ast.literal_eval(output.getvalue().splitlines()[-1])


@pytest.mark.parametrize("is_framed", [False, True])
def test_its_snippets_run_and_the_libraries_agree(tmp_path, is_framed):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4).eval()
    model.get_classifier().weight.data *= 30
    save_checkpoint(
        tmp_path / "checkpoint",
        model,
        label_names=LABELS,
        preprocessing=Preprocessing((96, 96), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), frame=is_framed),
        brain_xai={"temperature": 2.0},
    )
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    pixels = np.random.default_rng(0).integers(256, size=(60, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((200, 240)).save(tmp_path / "scan.png")
    snippets = re.findall(r"```python\n(.*?)```", model_card(config, make_metrics()), re.DOTALL)
    printed = []
    for snippet in snippets:
        if "gradio_client" in snippet:
            with served(str(tmp_path / "checkpoint")) as (_, address):
                printed.append(run(snippet.replace("http://127.0.0.1:7860", address), tmp_path))
            continue
        printed.append(run(snippet, tmp_path))
    ours, of_app, of_timm, of_transformers = printed
    assert max(ours.values()) > 0.3
    assert of_app == pytest.approx(ours, abs=1e-6)
    assert of_timm == pytest.approx(ours, abs=1e-4)
    uncalibrated = {answer["label"]: answer["score"] for answer in of_transformers}
    roots = {label: uncalibrated[label] ** 0.5 for label in LABELS}  # a temperature of 2 takes the square root
    assert {label: root / sum(roots.values()) for label, root in roots.items()} == pytest.approx(ours, abs=1e-3)


def make_explanations():
    entry = {"value": 0.4321, "low": 0.4, "high": 0.5, "n": 77}
    found = {"pointing_game": entry, "energy_lift": entry | {"value": 6.543}, "srg": entry | {"value": 0.2109}}
    return {
        "checkpoint": {"revision": "abc"},
        "split": "purged",
        "target": "true",
        "seed": 0,
        "image_size": [160, 160],
        "baseline": "black",
        "sets": {"test": {"n": 345}},
        "interval": {"level": 0.95, "method": "bootstrap"},
        "methods": {"grad_cam": found},
        "baselines": {"centre": found},
        "not_applicable": {"guided_backprop": "Not every activation is a ReLU."},
        "command": "python -m training.explanations --seed 0",
    }


def test_measured_maps_are_shown():
    text = model_card(make_config(), make_metrics(), explanations=make_explanations(), has_maps=True)
    for part in ("`grad_cam`", "0.432 [0.400, 0.500], n = 77", "6.543", "0.211", "*centre*"):
        assert part in text
    assert "`guided_backprop` cannot be used with this model: Not every activation is a ReLU." in text
    assert "Measured with `python -m training.explanations --seed 0`." in text
    assert "(figures/explanations.png)" in text
    assert "\n\n\n" not in text
    assert "figures/maps.png" in text
    without = model_card(make_config(), make_metrics())
    assert "were not measured against tumor boxes" in " ".join(without.split())
    assert "figures/maps.png" not in without


def test_training_with_boxes_is_stated():
    config = make_config()
    explanations = make_explanations()
    assert "from inside the tumor boxes" not in model_card(config, make_metrics(), explanations=explanations)
    config["brain_xai"]["training"] = {"boxes": "boxes.csv", "box_weight": 0.3}
    text = " ".join(model_card(config, make_metrics(), explanations=explanations).split())
    assert "a loss term with weight 0.3 rewarded evidence from inside the tumor boxes of the training images" in text


def test_explanations_of_other_weights_are_left_out(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(make_config()))
    (tmp_path / "metrics.json").write_text(json.dumps(make_metrics()))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    explanations = make_explanations()
    for revision, is_shown in (("abc", False), (hashlib.sha256(b"weights").hexdigest()[:12], True)):
        explanations["checkpoint"]["revision"] = revision
        (tmp_path / "explanations.json").write_text(json.dumps(explanations))
        assert ("`grad_cam`" in card_of(tmp_path)) == is_shown
    (tmp_path / "explanations.json").unlink()
    assert "`grad_cam`" not in card_of(tmp_path)


def test_a_published_card_names_the_checkpoint():
    text = model_card(make_config(), make_metrics(), published=("org/name", "run-1"))
    assert "FOLDER" not in text
    assert 'load_checkpoint("org/name@run-1")' in text
    assert '"hf-hub:org/name@run-1"' in text
    assert 'model="org/name", revision="run-1"' in text


def test_known_initial_weights_are_the_base_model():
    metrics = make_metrics()
    assert ModelCard(model_card(make_config(), metrics)).data.base_model is None
    metrics["init"] = "timm's pretrained weights of resnet18"
    data = ModelCard(model_card(make_config(), metrics)).data
    assert data.base_model == "timm/resnet18.a1_in1k"
    assert data.base_model_relation == "finetune"


def test_misses_are_counted_per_tumor_class():
    metrics, config = make_metrics(), make_config()
    metrics["test"]["confusion_matrix"] = [[50, 0, 3, 0], [4, 50, 7, 19], [0, 11, 50, 0], [0, 0, 0, 50]]
    config["brain_xai"]["training"] = {"no_tumor_label": "notumor"}
    assert "`glioma` 3 of 53, `meningioma` 7 of 80, `pituitary` 0 of 50." in model_card(config, metrics)
    assert "Misses" not in model_card(make_config(), metrics)


def test_the_card_shows_scans_from_other_sources_if_they_were_measured():
    plain = model_card(make_config(), make_metrics())
    assert "other hospitals" in plain
    assert "Scans from other sources" not in plain
    kinds = {
        "web notumor": {"tumor_or_not": ENTRY, "class": ENTRY | {"value": 0.625}},
        "web glioma or meningioma": {"tumor_or_not": ENTRY},
    }
    text = model_card(make_config(), make_metrics() | {"shortcuts": shortcuts(kinds)})
    right = "0.750 [0.500, 0.875]"
    # The most of padded and cropped is 1/16, of the three of brightness 4/16, inverted is 5/16.
    assert f"| web notumor | 1,234 | 12 | {right} | 0.625 [0.500, 0.875] | -0.013 | 0.06 | 0.25 | 0.31 |" in text
    assert f"| web glioma or meningioma | 1,234 | 12 | {right} | – | -0.013 | 0.06 | 0.25 | 0.31 |" in text
    assert "other hospitals" not in text
    assert "**External testing.** Held-out scans" in text
    results = text.split("## Results\n\n")[1]
    assert results.startswith(
        "Tumor told from no tumor: 0.654 [0.500, 0.875] in the worst group of scans, web T1 notumor (n = 1,234); "
        "0.812 [0.800, 0.900] on the mean of 9 groups."
    )
    assert "| Worst group | 0.654 [0.500, 0.875] (web, T1 notumor) |" in results
    for part in (
        "| look 1 | 1,234 (12) | 7 | 5 | 0.21 | 0.64 |",
        "| border | 0.457 [0.500, 0.875] | 0.457 [0.500, 0.875] |",
        "| size | 0.750 [0.500, 0.875] | – |",
        "only scalp and background\nare left, and of 0.234",
        "| web | 1,234 | 0.750 [0.500, 0.875] | 0.032 [0.500, 0.875] |",
        "(figures/confidence.png)",
    ):
        assert part in text, part
    assert "\n\n\n" not in ModelCard(text).text


def test_the_card_shows_warnings_and_changes_if_they_were_measured():
    gate = {"false_alarms": {"not_brain_mri": ENTRY}, "detected": {"photographs": ENTRY}}
    text = model_card(make_config(), make_metrics() | {"trust": gate})
    assert "| warned about: photographs | 1,234 | 0.750 [0.500, 0.875] | – |" in text
    assert "### Trust\n\nWarnings:" in text
    assert "**Robustness.** Not tested." in text
    both = model_card(make_config(), make_metrics() | {"trust": gate, "shortcuts": shortcuts()})
    assert both.count("### Trust") == 1
    assert "Warnings:" in both


def test_maps_on_scans_of_other_sources_are_shown():
    entry = {"value": 0.4321, "low": 0.4, "high": 0.5, "n": 77}
    found = dict.fromkeys(("pointing_game", "energy_lift"), entry)
    elsewhere = {
        "interval": {"level": 0.95, "method": "bootstrap by patient"},
        "kinds": {
            "web T1 glioma": {"n": 77, "units": 9, "methods": {"grad_cam": found}, "baselines": {"center": found}}
        },
        "command": "python -m training.explanations --source web",
    }
    text = model_card(make_config(), make_metrics(), explanations=make_explanations() | {"elsewhere": elsewhere})
    assert "| web T1 glioma | `grad_cam` | 0.432 [0.400, 0.500], n = 77 |" in text
    assert "| web T1 glioma | *center* |" in text
    assert "\n\n\n" not in text
