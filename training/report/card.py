"""The README.md of a checkpoint folder, rendered by card.md.jinja from the other files of the folder."""

import json
import re
from datetime import timedelta
from pathlib import Path

import timm
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from brain_xai.checkpoint.folder import read_explanations, weights_hash
from brain_xai.checkpoint.schema import WEIGHTS_NAME
from brain_xai.small_cnns import SMALL_CNNS
from training.report.elsewhere import (
    confidence_table,
    coverage_rows,
    cues_table,
    group_rows,
    looks_table,
    sources_table,
    worst_group_sentence,
)
from training.report.figures import MANY_CLASSES
from training.report.robustness import robustness_table
from training.report.tables import (
    METRIC_NAMES,
    explanations_table,
    maps_elsewhere_table,
    markdown_table,
    named_entries,
    results_table,
    with_interval,
)
from training.report.trust import cannot_say_table, gate_table

LICENSE = "mit"
ROBUSTNESS_FILE = "robustness.json"
TAGS = ["image-classification", "timm", "transformers", "medical-imaging", "mri", "brain-tumor", "explainability"]
PER_CLASS = ("precision", "recall", "f1", "auroc")
# The Hub's names of metrics where they differ from ours.
HUB_METRICS = {"macro_f1": "f1", "auroc": "roc_auc", "auroc_macro": "roc_auc", "brier": "brier_score"}


def card_of(folder: Path, repo_id: str = "", tag: str = "", *, has_maps: bool = True) -> str:
    """Return the card of a checkpoint folder, as it is published as repo_id@tag if these are given.

    Without `has_maps` it leaves out figures/maps.png, which is not published with scans whose license is unknown.
    """

    def content(name: str) -> dict | None:
        file = folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    return model_card(
        content("config.json"),
        content("metrics.json") | _robustness(folder),
        official=content("official.json"),
        explanations=read_explanations(folder),
        has_maps=has_maps and (folder / "figures" / "maps.png").is_file(),
        published=(repo_id, tag),
    )


def model_card(
    config: dict,
    metrics: dict,
    *,
    official: dict | None = None,
    explanations: dict | None = None,
    has_maps: bool = False,
    published: tuple[str, str] = ("", ""),
) -> str:
    """Return the text of a checkpoint folder's README.md.

    Args:
        config: The content of its config.json.
        metrics: The content of its metrics.json. Its `notes`, a list of sentences about this one checkpoint that a
            person has added, become limitations; its `robustness` is the content of robustness.json.
        official: The metrics.json of the same settings trained on the official split, shown for comparison.
        explanations: The content of its explanations.json, if its maps were measured.
        has_maps: Whether there is figures/maps.png.
        published: Its repository and tag on the Hub, empty for a local folder.

    Raises:
        jinja2.UndefinedError, KeyError: The content lacks something; no card has a gap.
    """
    runs = [metrics, official] if official else [metrics]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    repo_id, tag = published
    return environment.get_template("card.md.jinja").render(
        front_matter=_front_matter(config, runs).to_yaml(),
        config=config,
        metrics=metrics,
        runs=runs,
        explanations=explanations,
        has_maps=has_maps,
        repo_id=repo_id,
        tag=tag,
        is_ours=config["architecture"] in SMALL_CNNS,
    )


def _robustness(folder: Path) -> dict:
    """Return the content of robustness.json as `robustness`; {} without one, or if other weights were measured."""
    file = folder / ROBUSTNESS_FILE
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    measured = content.get("checkpoint", {}).get("revision")
    return {"robustness": content} if measured and measured == weights_hash(folder / WEIGHTS_NAME) else {}


def _front_matter(config: dict, runs: list[dict]) -> ModelCardData:
    # Only an id on the Hub may stand under `datasets`; a folder or a Kaggle set is named in the results.
    hub_dataset = config["brain_xai"].get("training", {}).get("dataset")
    results = [result for run in runs for result in _eval_results(run)]
    base_model = _base_model(runs[0]["init"])
    energy = runs[0]["training"].get("energy")
    # The Hub's field: grams.
    emissions = (
        {
            "emissions": round(1000 * energy["co2_kg"], 3),
            "source": f"codecarbon {energy['codecarbon']}",
            "training_type": "pre-training" if runs[0]["init"] == "random weights" else "fine-tuning",
            "geographical_location": energy["country"],
        }
        if energy
        else None
    )
    return ModelCardData(
        license=LICENSE,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=TAGS,
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=[hub_dataset] if hub_dataset else None,
        co2_eq_emissions=emissions,
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


def _counts_table(counts: dict[str, int]) -> str:
    return markdown_table(list(counts), [[f"{n:,}" for n in counts.values()]], left=0)


def _results_table(runs: list[dict]) -> str:
    """Return all metrics but those per class, of which only recall, with one column per run."""
    metrics = [name for name in METRIC_NAMES if name not in PER_CLASS]
    columns = {f"{run['split']} split": run for run in runs}
    return results_table(columns, [*metrics, "recall"], group_rows(columns), coverage_rows(columns))


def _class_table(test: dict) -> str:
    totals = [sum(row) for row in test["confusion_matrix"]]
    rows = [
        [f"`{label}`", f"{n:,}", *(with_interval(test[metric][label]) for metric in PER_CLASS)]
        for label, n in zip(test["label_names"], totals, strict=True)
    ]
    return markdown_table(["Class", "n", *(METRIC_NAMES[metric] for metric in PER_CLASS)], rows)


def _confusion_table(test: dict) -> str:
    """Return the confusion matrix; of many classes only the figure can be read."""
    if len(test["label_names"]) > MANY_CLASSES:
        return f"With {len(test['label_names'])} classes it is only drawn, below."
    labels = [f"`{label}`" for label in test["label_names"]]
    rows = zip(labels, test["confusion_matrix"], strict=True)
    return markdown_table(["", *labels], [[label, *(f"{n:,}" for n in counts)] for label, counts in rows])


def _frequent_errors(test: dict) -> str:
    """Name up to three kinds of errors, the most frequent first; "" if there are none."""
    labels = test["label_names"]
    errors = [
        (n, labels[true], labels[predicted])
        for true, counts in enumerate(test["confusion_matrix"])
        for predicted, n in enumerate(counts)
        if n and true != predicted
    ]
    return "; ".join(f"`{true}` classified as `{predicted}` ({n:,})" for n, true, predicted in sorted(errors)[:-4:-1])


def _energy(used: dict) -> str:
    """Say what the training used, as codecarbon measured it."""
    if not used:
        return "not measured"
    amounts = f"{used['energy_kwh']:.3g} kWh, {used['co2_kg']:.3g} kg CO2-equivalent"
    return f"{amounts} with the power of {used['country']} (codecarbon {used['codecarbon']})"


def _misses(test: dict, no_tumor_label: str) -> str:
    """Name how many images of each tumor class were classified as the class without a tumor."""
    labels = test["label_names"]
    column = labels.index(no_tumor_label)
    counts = zip(labels, test["confusion_matrix"], strict=True)
    return ", ".join(f"`{label}` {row[column]:,} of {sum(row):,}" for label, row in counts if label != no_tumor_label)


FILTERS = {
    "code": "`{}`".format,
    "count": "{:,}".format,
    "percent": "{:.0%}".format,
    "duration": lambda seconds: str(timedelta(seconds=round(seconds))),
    "interval": with_interval,
    "counts_table": _counts_table,
    "results_table": _results_table,
    "class_table": _class_table,
    "confusion_table": _confusion_table,
    "explanations_table": explanations_table,
    "maps_elsewhere_table": maps_elsewhere_table,
    "worst_group_sentence": worst_group_sentence,
    "sources_table": sources_table,
    "looks_table": looks_table,
    "cues_table": cues_table,
    "confidence_table": confidence_table,
    "gate_table": gate_table,
    "cannot_say_table": cannot_say_table,
    "robustness_table": robustness_table,
    "frequent_errors": _frequent_errors,
    "misses": _misses,
    "energy": _energy,
}
