"""What was measured about a model, in words: in short beside an answer, at length in the folded part of the page."""

from collections.abc import Mapping, Sequence

from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.checkpoint.schema import read_json
from brain_xai.classifier import CheckpointInfo, PredictionWarning
from brain_xai.ui.language import _
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
# A kind of scans from another collection counts from this number of scans on; fewer say too little.
MIN_SCANS = 50


def checkpoint_choice(checkpoint: str) -> str:
    """Return the name of a checkpoint with how often it is right, as far as that is known without loading it."""
    folder = checkpoint_folder(checkpoint)
    file = folder / "metrics.json" if folder else None
    accuracy = read_json(file).get("test", {}).get("accuracy") if file and file.is_file() else None
    name = checkpoint_text(checkpoint).removeprefix("bundled/")
    return f"{name} · {of_100(accuracy['value'])}" if accuracy else name


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
    facts = f"`{checkpoint_text(info.id)}` · {info.architecture} · revision `{info.revision}`"
    return "\n\n".join([_with_intervals(metrics), *(warning.message for warning in messages), facts])


def _with_intervals(metrics: Mapping) -> str:
    """Return how often a model is right, with intervals and what kind of test scans these were."""
    measured = metrics.get("test", {})
    accuracy, missed = measured.get("accuracy"), measured.get("tumor_miss_rate")
    if accuracy is None:
        return NOT_MEASURED
    sentences = [
        f"This model was right on {_percent(accuracy['value'])} of {measured['n']:,} test scans "
        f"({_interval(accuracy)})."
    ]
    if missed:
        sentences.append(
            f"In {_percent(missed['value'])} of the scans with a tumor it recognized none ({_interval(missed)})."
        )
    return " ".join([*sentences, SPLIT_TEXTS.get(metrics.get("split"), "")]).strip()


def _interval(measured: Mapping) -> str:
    return f"95\N{NO-BREAK SPACE}% interval {_percent(measured['low'])} to {_percent(measured['high'])}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def of_100(fraction: float) -> str:
    """Return a measured fraction as people count; never all or none, which no sample can show."""
    count = round(100 * fraction)
    if count in (0, 100):
        return _("more than 99 of 100") if count else _("fewer than 1 of 100")
    return _("{count} of 100", count=count)
