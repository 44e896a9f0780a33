"""What was measured about a model, in words: in short beside an answer, at length in the folded part of the page."""

import re
from collections.abc import Mapping, Sequence

from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.checkpoint.schema import read_json
from brain_xai.classifier import CheckpointInfo, PredictionWarning
from brain_xai.ui.language import _, translated
from brain_xai.ui.texts import checkpoint_text

LEAKY_SPLIT = "Many test scans have a copy among the training scans, so these numbers flatter the model."
SPLIT_TEXTS = {
    "purged": "No copy of a test scan was used for training.",
    "grouped": "No copy of a test scan was used for training.",
    "official": LEAKY_SPLIT,
}
NOT_MEASURED = "How often this model is right has not been measured. Treat its answer as a demonstration only."
AT_HOME = "Right on {right} test scans of its own collection."
AT_HOME_MISSING = "Right on {right} test scans of its own collection, missing {missed} tumors."
ELSEWHERE = "On scans from other collections it told tumor from no tumor in {worst} to {best} of 100."
NOT_MEASURED_ELSEWHERE = "It has not been measured on scans from other collections; expect it to be worse there."
RIGHT = "This model was right on {share} of {n} test scans (95\N{NO-BREAK SPACE}% interval {low} to {high})."
MISSED = "In {share} of the scans with a tumor it recognized none (95\N{NO-BREAK SPACE}% interval {low} to {high})."
INTERVAL = {"share": "value", "low": "low", "high": "high"}
RECOMMENDED = "recommended"
FAMILIES = {"efficientnetv2": "EfficientNetV2", "efficientnet": "EfficientNet", "resnet": "ResNet"}
ARCHITECTURE = re.compile(rf"(?:tf_)?(?P<family>{'|'.join(FAMILIES)})_?(?P<size>[a-z]?\d+|[a-z])")
# A kind of scans from another collection counts from this number of scans on; fewer say too little.
MIN_SCANS = 50


def checkpoint_choices(checkpoints: Sequence[str]) -> list[tuple[str, str]]:
    """Return (text, id) of the checkpoints: name, how often it is right if that is known, and which is recommended."""
    names = [model_name(checkpoint) for checkpoint in checkpoints]
    if len(set(names)) < len(names):
        names = list(map(checkpoint_text, checkpoints))
    choices = []
    for place, (name, checkpoint) in enumerate(zip(names, checkpoints, strict=True)):
        parts = [name, _right(checkpoint), _(RECOMMENDED) if place == 0 and len(names) > 1 else ""]
        choices.append((" · ".join(filter(None, parts)), checkpoint))
    return choices


def model_name(checkpoint: str) -> str:
    """Return the name of a model as people write it: "bundled/resnet18" -> "ResNet-18"; an id it cannot read stays."""
    name = checkpoint_text(checkpoint).removeprefix("bundled/")
    family = ARCHITECTURE.fullmatch(name)
    return f"{FAMILIES[family['family']]}-{family['size'].upper()}" if family else name


def _right(checkpoint: str) -> str:
    """Return how often a checkpoint is right, from its files, "" if that is not known."""
    folder = checkpoint_folder(checkpoint)
    file = folder / "metrics.json" if folder else None
    accuracy = read_json(file).get("test", {}).get("accuracy") if file and file.is_file() else None
    return of_100(accuracy["value"]) if accuracy else ""


def in_short(metrics: Mapping) -> str:
    """Return how often a model is right at home and elsewhere, in whole numbers, from the content of metrics.json."""
    numbers = metrics.get("test", {})
    if "accuracy" not in numbers:
        return _(NOT_MEASURED)
    values = {"right": of_100(numbers["accuracy"]["value"])}
    if numbers.get("tumor_miss_rate"):
        values["missed"] = of_100(numbers["tumor_miss_rate"]["value"])
    sentences = [_(AT_HOME_MISSING if "missed" in values else AT_HOME, **values), _elsewhere(metrics)]
    if metrics.get("split") == "official":
        sentences.append(_(LEAKY_SPLIT))
    return " ".join(sentences)


def _elsewhere(metrics: Mapping) -> str:
    """Return how a model does on scans from other collections: on the worst and on the best kind of scans."""
    kinds = metrics.get("shortcuts", {}).get("kinds", {})
    entries = [kind["tumor_or_not"] for name, kind in kinds.items() if name != "test"]
    shares = [entry["value"] for entry in entries if entry["n"] >= MIN_SCANS]
    if not shares:
        return _(NOT_MEASURED_ELSEWHERE)
    worst, best = round(100 * min(shares)), round(100 * max(shares))
    return _(ELSEWHERE, worst=worst, best=best)


def at_length(info: CheckpointInfo, metrics: Mapping, messages: Sequence[PredictionWarning] = ()) -> str:
    """Return a description of a checkpoint in Markdown, with its measured numbers and its warnings."""
    facts = f"`{checkpoint_text(info.id)}` · {info.architecture} · {_('revision')} `{info.revision}`"
    return "\n\n".join([_with_intervals(metrics), *(translated(warning.message) for warning in messages), facts])


def _with_intervals(metrics: Mapping) -> str:
    """Return how often a model is right, with intervals and what kind of test scans these were."""
    found = metrics.get("test", {})
    accuracy, missed = found.get("accuracy"), found.get("tumor_miss_rate")
    if accuracy is None:
        return _(NOT_MEASURED)
    sentences = [_(RIGHT, **_interval(accuracy), n=f"{found['n']:,}")]
    if missed:
        sentences.append(_(MISSED, **_interval(missed)))
    split = SPLIT_TEXTS.get(metrics.get("split"))
    return " ".join([*sentences, _(split)] if split else sentences)


def _interval(found: Mapping) -> dict[str, str]:
    """Return a measured share and its 95 % interval in percent."""
    return {name: f"{100 * found[key]:.1f}\N{NO-BREAK SPACE}%" for name, key in INTERVAL.items()}


def of_100(fraction: float) -> str:
    """Return a measured fraction as people count; never all or none, which no sample can show."""
    count = round(100 * fraction)
    if count in (0, 100):
        return _("more than 99 of 100") if count else _("fewer than 1 of 100")
    return _("{count} of 100", count=count)
