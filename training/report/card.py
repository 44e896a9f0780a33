"""The README.md of a checkpoint folder, rendered from the files in it alone."""

import json
import re
from datetime import timedelta
from pathlib import Path

import timm
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from brain_xai.checkpoint.folder import read_explanations
from training.report.checklist import checklist
from training.report.tables import (
    METRIC_NAMES,
    explanations_table,
    markdown_table,
    named_entries,
    results_table,
    with_interval,
)

LICENSE = "mit"
TAGS = ["image-classification", "timm", "transformers", "medical-imaging", "mri", "brain-tumor", "explainability"]
PER_CLASS = ("precision", "recall", "f1", "auroc")
# Names of the Hub's metrics where they differ from ours.
HUB_METRICS = {"macro_f1": "f1", "auroc": "roc_auc", "auroc_macro": "roc_auc", "brier": "brier_score"}
SPLITS = {
    "purged": "The published test set stays whole; every training image that shares a picture with it was removed.",
    "official": "The split as published: copies of test images are in the training set, so the results are too good.",
    "grouped": "All images were divided anew, so that all copies of a picture are in the same part.",
}

TEMPLATE = """\
---
{{ front_matter }}
---

# Brain XAI: {{ config.architecture }}

This `{{ config.architecture }}` sorts single brain-MRI slices into {{ label_list }}.
**It is for research and teaching. It is not a medical device and never gives a diagnosis.**

On the {{ count(test.n) }} test images of the {{ metrics.split }} split it reaches an accuracy of \
{{ with_interval(test.accuracy) }} and a macro-F1 of {{ with_interval(test.macro_f1) }}.
{% if test.tumor_miss_rate %}
Of the tumour images it takes a share of {{ with_interval(test.tumor_miss_rate) }} for images without a tumour.
{% endif %}

## What it is for, and what it is not for

- For: studying explanation methods and calibration, teaching, and as a baseline for results without copies of test
  images in the training data.
- Not for: diagnosis, triage, treatment, or any other decision about a person.
- It knows only the classes above. It gives an answer for any picture: other diseases, other organs, even photographs.
- It sees one slice as a small grey picture ({{ size }} pixels), not the series, not the patient's history.
- It was never tested on scans from a hospital of your own. Expect it to do worse there.

## How to use

{% if not repo_id %}
Put the path of this folder in place of `FOLDER`. For a published checkpoint use `org/name`, and `hf-hub:org/name`
in timm.

{% endif %}
With Brain XAI, calibrated and with the same reading of the file as in training:

```python
from brain_xai import load_checkpoint

classifier = load_checkpoint("{{ place }}")
print(classifier.predict("scan.png").probabilities)
```

Through a running app that offers this checkpoint, from any language or machine:

```python
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
print(client.predict(handle_file("scan.png"), api_name="/predict")["probabilities"])
```

With timm (the model was trained on grey pictures, hence the two conversions):

```python
import timm
import torch
from PIL import Image

model = timm.create_model("{{ timm_place }}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = Image.open("scan.png").convert("L").convert("RGB")
with torch.inference_mode():
    probabilities = (model(transform(image)[None])[0] / {{ temperature }}).softmax(0)
print(dict(zip(model.pretrained_cfg["label_names"], probabilities.tolist())))
```

With transformers (not calibrated: the temperature of {{ temperature }} is not applied):

```python
from PIL import Image
from transformers import pipeline

image = Image.open("scan.png").convert("L").convert("RGB")
print(pipeline("image-classification", {{ transformers_place }})(image))
```

## Training data and its known faults

Source: `{{ data.source }}`, {{ count(data.images) }} images, fingerprint `{{ data.fingerprint }}`.

{{ split_table }}

Split: {{ metrics.split }}. {{ split_text }}

- **Copies.** Only {{ count(data.distinct_pictures) }} of the {{ count(data.images) }} images are different pictures,
  once re-encoded, resized, mirrored and turned copies are counted as one.
{% if data.test_images %}
  {{ count(data.test_images_with_copy_in_train) }} of the {{ count(data.test_images) }} images of the published test set
  ({{ share(data.test_images_with_copy_in_train / data.test_images) }}) have a copy in the published training set.
  Results on the split as published therefore say little.
{% endif %}
- **Patients.** The images carry no patient number. Different slices of one patient can be in training and test.
- **Sequences.** In the public brain-tumour sets the tumour classes are nearly all contrast-enhanced T1 images, while
  images without tumour come from other sources and sequences. A model can be right for this wrong reason, and then
  misses tumours in an unusual sequence.
{% if data.left_out %}
- **Unreadable files.** {{ count(data.left_out) }} files could not be used and were left out.
{% endif %}

## Results

{{ results }}
{% if official %}

The {{ official.split }} split is shown only for comparison with other work. {{ official_text }}
{% endif %}

Precision, recall, F1 and AUROC per class, {{ metrics.split }} split:

{{ class_table }}

### Confusion matrix

Rows are the true class, columns the predicted one; test images of the {{ metrics.split }} split.

{{ confusion_table }}

{% if errors %}
Most frequent errors: {{ errors }}.
{% else %}
No test image was classified wrongly.
{% endif %}
{% if misses %}

Misses: of the images with a tumour, these were taken for `{{ no_tumor_label }}`: {{ misses }}.
{% endif %}

![Confusion matrix of the test images](figures/confusion_matrix.png)

### Calibration

The logits are divided by a temperature of {{ temperature }}, fitted on the validation split. On the test images the
expected calibration error (ECE) is then {{ with_interval(test.ece) }}, the negative log-likelihood (NLL)
{{ with_interval(test.nll) }}. The ECE is biased upwards, its interval more so: even a perfectly calibrated model does
not reach zero on a finite test set.

![Reliability diagram of the test images](figures/reliability.png)

### Explanations

{% if explanations %}
How often each method's map points at the tumour, and whether what it marks moved the answer.
{% if config.brain_xai.get("training", {}).get("boxes") %}
The model was taught with tumour boxes of the training images where its evidence should come from (weight
{{ config.brain_xai.training.box_weight }} in the loss); the boxes measured with here are of other pictures.
{% endif %}

{{ explanations }}

Measured with `{{ explanations_command }}`.

![How good the maps of each method are](figures/explanations.png)

{% for method, reason in not_applicable.items() %}
- `{{ method }}` does not work here: {{ reason }}
{% endfor %}
{% else %}
The maps of this checkpoint were not measured against tumour outlines. They show what moved the score, not where a
tumour is.
{% endif %}
{% if has_maps %}

Grad-CAM of the predicted class on test images, drawn by seed: right answers on the left, wrong ones on the
right, where there are any. Orange speaks for the answer, blue against it.

![Maps on test images](figures/maps.png)
{% endif %}

## Training

```bash
{{ metrics.command }}
```

{% for name, value in facts.items() %}
- {{ name }}: {{ value }}
{% endfor %}

![Loss and accuracy per epoch](figures/curves.png)

## Licence

The weights are under the licence named at the top. Scans in `examples/` and in `figures/`, where there are any, are
test images of the data named above, drawn by seed {{ metrics.seed }}, and stay under the licence of that data.

## Checklist

After the Checklist for Artificial Intelligence in Medical Imaging (CLAIM), as far as it applies.

{{ checklist }}
"""


def card_of(folder: Path, repo_id: str | None = None, tag: str | None = None) -> str:
    """Return the card of a checkpoint folder; with `repo_id` and `tag`, as it is published under that name."""

    def content(name: str) -> dict | None:
        file = folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    explanations = read_explanations(folder) or None
    has_maps = (folder / "figures" / "maps.png").is_file()
    published = f"{repo_id}@{tag}" if repo_id else None
    return model_card(
        content("config.json"), content("metrics.json"), content("official.json"), explanations, has_maps, published
    )


def model_card(
    config: dict,
    metrics: dict,
    official: dict | None = None,
    explanations: dict | None = None,
    has_maps: bool = False,
    published: str | None = None,
) -> str:
    """Return the text of a checkpoint folder's README.md.

    `config` and `metrics` are the contents of its config.json and metrics.json; `official` is the metrics.json of the
    same recipe trained on the official split, for a column beside its own; `explanations` is the content of its
    explanations.json, `has_maps` whether there is figures/maps.png; `published` is its name on the Hub, org/name@tag.
    Raises `jinja2.UndefinedError` or KeyError where something is missing, so that no card has a gap.
    """
    test, data = metrics["test"], metrics["data"]
    runs = [metrics, official] if official else [metrics]
    scalars = [name for name in METRIC_NAMES if name not in PER_CLASS]
    repo_id, _, tag = (published or "").partition("@")
    no_tumor_label = config["brain_xai"].get("training", {}).get("no_tumor_label", "")
    return (
        Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
        .from_string(TEMPLATE)
        .render(
            front_matter=_front_matter(config, runs).to_yaml(),
            config=config,
            metrics=metrics,
            official=official,
            test=test,
            data=data,
            repo_id=repo_id,
            place=published or "FOLDER",
            timm_place=f"hf-hub:{published}" if published else "local-dir:FOLDER",
            transformers_place=f'model="{repo_id}", revision="{tag}"' if published else 'model="FOLDER"',
            label_list=", ".join(f"`{label}`" for label in test["label_names"]),
            size=" × ".join(str(side) for side in config["pretrained_cfg"]["input_size"][1:]),
            temperature=f"{config['brain_xai']['temperature']:.4f}",
            split_text=SPLITS[metrics["split"]],
            official_text=SPLITS["official"],
            split_table=markdown_table(list(data["n"]), [[f"{n:,}" for n in data["n"].values()]]),
            results=results_table({f"{run['split']} split": run for run in runs}, [*scalars, "recall"]),
            class_table=_class_table(test),
            confusion_table=_confusion_table(test),
            errors=_frequent_errors(test),
            no_tumor_label=no_tumor_label,
            misses=_misses(test, no_tumor_label),
            explanations=explanations_table(explanations) if explanations else "",
            explanations_command=explanations["command"] if explanations else "",
            not_applicable=explanations["not_applicable"] if explanations else {},
            has_maps=has_maps,
            facts=_training_facts(metrics),
            checklist=checklist(config, metrics, explanations),
            count="{:,}".format,
            share="{:.0%}".format,
            with_interval=with_interval,
        )
    )


def _front_matter(config: dict, runs: list[dict]) -> ModelCardData:
    # Only an id on the Hub may stand under `datasets`; a folder or a Kaggle set is named in the results.
    hub_dataset = config["brain_xai"].get("training", {}).get("dataset")
    results = [result for run in runs for result in _eval_results(run)]
    base_model = _base_model(runs[0]["init"])
    return ModelCardData(
        license=LICENSE,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=TAGS,
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=[hub_dataset] if hub_dataset else None,
        metrics=sorted({result.metric_type for result in results}),
        model_name=config["architecture"],
        eval_results=results,
    )


def _base_model(init: str) -> str | None:
    """Return the repository of the weights that training started from, where they are timm's."""
    started = re.match(r"timm's pretrained weights of ([\w.]+)", init)
    known = timm.get_pretrained_cfg(started.group(1).rstrip(".")) if started else None
    return known.hf_hub_id if known else None


def _eval_results(run: dict) -> list[EvalResult]:
    """Return every defined test metric of a run; a value per class has the label in its name."""
    test, source = run["test"], run["data"]["source"]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=source,
            dataset_name=f"{source}, {run['split']} split",
            dataset_config=run["split"],
            dataset_split="test",
            dataset_args={"n": test["n"], "groups": test["groups"], "seed": run["seed"]},
            metric_type=HUB_METRICS.get(metric, metric),
            metric_name=name,
            metric_value=round(entry["value"], 4),
            metric_args={key: round(entry[key], 4) for key in ("low", "high") if entry[key] is not None},
        )
        for metric in METRIC_NAMES
        for name, entry in named_entries(test, metric).items()
        if entry["value"] is not None
    ]


def _class_table(test: dict) -> str:
    totals = [sum(row) for row in test["confusion_matrix"]]
    rows = [
        [f"`{label}`", f"{n:,}", *(with_interval(test[metric][label]) for metric in PER_CLASS)]
        for label, n in zip(test["label_names"], totals, strict=True)
    ]
    return markdown_table(["Class", "n", *(METRIC_NAMES[metric] for metric in PER_CLASS)], rows)


def _confusion_table(test: dict) -> str:
    labels = [f"`{label}`" for label in test["label_names"]]
    rows = zip(labels, test["confusion_matrix"], strict=True)
    return markdown_table(["", *labels], [[label, *(f"{n:,}" for n in counts)] for label, counts in rows])


def _frequent_errors(test: dict) -> str:
    """Name up to three kinds of error, the most frequent first."""
    labels = test["label_names"]
    errors = [
        (n, labels[true], labels[predicted])
        for true, counts in enumerate(test["confusion_matrix"])
        for predicted, n in enumerate(counts)
        if n and true != predicted
    ]
    return "; ".join(f"`{true}` taken for `{predicted}` ({n:,})" for n, true, predicted in sorted(errors)[:-4:-1])


def _misses(test: dict, no_tumor_label: str) -> str:
    """Name how many images of each tumour class were taken for healthy, "" where no class means that."""
    labels = test["label_names"]
    if no_tumor_label not in labels:
        return ""
    healthy = labels.index(no_tumor_label)
    counts = zip(labels, test["confusion_matrix"], strict=True)
    return ", ".join(f"`{label}` {row[healthy]:,} of {sum(row):,}" for label, row in counts if label != no_tumor_label)


def _training_facts(metrics: dict) -> dict[str, str]:
    training, macro_f1 = metrics["training"], with_interval(metrics["validation"]["macro_f1"])
    speed, bare = training["images_per_second"], training["bare_images_per_second"]
    return {
        "Start": metrics["init"],
        "Seed": str(metrics["seed"]),
        "Epochs": f"{training['epochs']}; kept: epoch {training['best_epoch']}, best by validation macro-F1",
        "Validation macro-F1": f"{macro_f1} (n = {metrics['validation']['n']:,})",
        "Energy and carbon": "not measured",
        "Time": f"{timedelta(seconds=round(training['seconds']))} (h:mm:ss)",
        "Speed": f"{speed:,.1f} images/s, {speed / bare:.0%} of the bare model's {bare:,.1f}",
        "Waiting for data": f"{training['data_wait_share']:.1%} of the time",
        "Device": f"{training['device']}, processes: {training['processes']}",
        "Data fingerprint": f"`{metrics['data']['fingerprint']}`",
        "Versions": ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
    }
