"""The public API: what /predict, /explain, /compare, /batch, /methods and /checkpoints accept and answer.

Their docstrings are what callers read: on the API page, through `view_api()`, and as the descriptions of MCP tools.
`endpoints` makes endpoints of them.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from PIL import Image

from brain_xai.checkpoint.catalog import allowed_checkpoints
from brain_xai.explanation import MethodNotApplicable
from brain_xai.methods import METHODS
from brain_xai.summary import summarize
from brain_xai.ui import answers
from brain_xai.ui.batch import BadBatch, Table, predict_all, to_csv, unpack
from brain_xai.ui.callers import run_for_caller, stream_for_caller
from brain_xai.ui.inputs import (
    Upload,
    UserError,
    compare_methods,
    explain_or_refuse,
    get_classifier,
    read_upload,
    read_uploads,
)
from brain_xai.ui.jobs import Progress
from brain_xai.ui.monitoring.monitor import count_answer

# A finer grid of windows would keep everybody else waiting for minutes.
MIN_STRIDE = 1 / 32
SIZES = ("original", "model")
BARS = ("words", "numbers", "none")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ExplainCall:
    """What a caller of /explain sends; the fields are its arguments."""

    image: Upload
    checkpoint: str = "default"
    method: str = "grad_cam"
    target: str | int = "predicted"
    opacity: float = 0.7
    outline: bool = False
    size: str = "original"
    bar: str = "words"
    window: float | None = None
    stride: float | None = None


def predict(image: Upload, checkpoint: str = "default") -> dict:
    """Classify one brain-MRI slice. This is research software: the answer is not a diagnosis.

    Answers with JSON: `label` (the most probable class), `probabilities` {label: p} (calibrated, they sum to 1),
    `warnings` (a list of {code, message}: what must be known about this answer; show them to people), `checkpoint` (id,
    revision and architecture of the weights), `input` (size of the image and of what the model sees, in pixels, and
    `part`: left, top, right, bottom of what it sees in fractions of the image) and `seconds`.

    Args:
        image: One slice as PNG, JPEG, TIFF, BMP or WebP, at most 20 MB: an uploaded file or a data URL.
        checkpoint: Which model answers: "default" or an id from `checkpoints`.
    """
    start = time.perf_counter()
    classifier = get_classifier(checkpoint)
    scan = read_upload(image)
    prepared = classifier.prepare(scan)
    prediction = classifier.prediction(classifier.forward(prepared.pixel_values), prepared.looks)
    count_answer(prediction)
    return {
        **answers.describe_prediction(prediction),
        "checkpoint": asdict(prediction.checkpoint),
        "input": answers.describe_input(classifier, scan, prepared.part),
        "warnings": [asdict(warning) for warning in prediction.warnings],
        "seconds": _seconds_since(start),
    }


async def explain(call: ExplainCall) -> tuple[Image.Image, str, dict]:
    """Show what in one brain-MRI slice speaks for one class, and what against it. It does not show where a tumor is.

    Answers with the overlay (PNG; orange speaks for the class, blue against it), the attribution (.npy, float32
    [model_height, model_width]; > 0 speaks for the class, < 0 against it) and JSON: `method`, `target` (index of the
    explained class), `label` (its name), `prediction` (the model's own `label` and `probabilities`), `unit` and `scale`
    (the attribution drawn in full color) and `signed` (whether evidence against the class can be shown), `settings`,
    `quality` (how good the maps of this method were on test images, null if not measured), `summary` (one sentence:
    where the evidence is, and what covering it changes), `input`, `warnings` and `checkpoint` as in `predict`, and
    `seconds`. Reports its progress in forward passes.

    Args:
        image: As for `predict`.
        checkpoint: As for `predict`.
        method: The way to explain, a key from `methods`.
        target: The class to explain: "predicted" for the model's own answer, a label, or its index.
        opacity: Opacity of full color in the overlay, 0 to 1.
        outline: Whether to draw a line around the strongest evidence.
        size: Draw on the "original" image, or on what the "model" saw of it.
        bar: What the color bar below the overlay says: "words", "numbers" (with the unit), or "none" for no bar.
        window: Occlusion only: side of the square that covers the image, as a fraction of it; 0.2 if null.
        stride: Occlusion only: distance of two squares, likewise; from 1/32 to `window`, 1/16 if null.
    """

    def work(progress: Progress) -> tuple[Image.Image, str, dict]:
        start = time.perf_counter()
        settings = _checked_options(call)
        classifier, scan = get_classifier(call.checkpoint), read_upload(call.image)
        try:
            explanation = explain_or_refuse(classifier, scan, call.method, call.target, progress, **settings)
        except MethodNotApplicable as reason:
            raise UserError(str(reason)) from reason
        count_answer(explanation.prediction)
        facts = {
            "method": explanation.method,
            **answers.describe_subject(explanation),
            **answers.describe_numbers(classifier, explanation),
            "summary": summarize(explanation, classifier=classifier).sentence,
            "input": answers.describe_input(classifier, scan, explanation.part),
            **answers.describe_provenance(explanation),
            "seconds": _seconds_since(start),
        }
        overlay = explanation.image(call.opacity, call.outline, on=call.size, bar=call.bar)
        return overlay, answers.save_attribution(explanation), facts

    return await run_for_caller(work)


async def compare(
    image: Upload, checkpoint: str = "default", target: str | int = "predicted"
) -> tuple[list[tuple[Image.Image, str]], str, dict]:
    """Explain one class of one brain-MRI slice by every method that works on the checkpoint; takes some seconds.

    Answers with a gallery of overlays (the caption is the key of the method), the attributions (.npz, one array per
    key, as in `explain`) and JSON: `target`, `label`, `prediction`, `input`, `warnings`, `checkpoint` and `seconds` as
    in `explain`, `methods` {key: {unit, scale, signed, settings, quality, summary}}, and `not_applicable` {key: why
    the method is missing}. Reports its progress in forward passes.

    Args:
        image: As for `predict`.
        checkpoint: As for `predict`.
        target: As for `explain`.
    """

    def work(progress: Progress) -> tuple[list[tuple[Image.Image, str]], str, dict]:
        start = time.perf_counter()
        classifier, scan = get_classifier(checkpoint), read_upload(image)
        comparison = compare_methods(classifier, scan, target, progress)
        explanations = {explanation.method: explanation for explanation in comparison.explanations}
        first = comparison.explanations[0]
        count_answer(first.prediction)
        facts = {
            **answers.describe_subject(first),
            "methods": {
                key: {
                    **answers.describe_numbers(classifier, entry),
                    "summary": summarize(entry, comparison.explanations).sentence,
                }
                for key, entry in explanations.items()
            },
            "not_applicable": comparison.not_applicable,
            "input": answers.describe_input(classifier, scan, first.part),
            **answers.describe_provenance(first, classifier.disagreement_warnings(comparison.explanations)),
            "seconds": _seconds_since(start),
        }
        return (
            [(entry.image(), key) for key, entry in explanations.items()],
            answers.save_attributions(explanations),
            facts,
        )

    return await run_for_caller(work)


async def batch(files: list[dict] | None, checkpoint: str = "default") -> AsyncIterator[tuple[dict, str]]:
    """Classify many brain-MRI slices at once; what is wrong with one file does not keep the others from an answer.

    Answers with JSON and the same table as CSV. The JSON holds `rows`, one for each image in the given order: `file`
    (its name as given), `label`, `probabilities`, `warnings` (codes) and `error` (a sentence; "" if there is none);
    `messages` {code of a warning: message}, `failed` (how many rows have an error), `total` (how many images there
    are), `checkpoint` and `seconds`. Cells of the CSV that a spreadsheet would take for a formula begin with an
    apostrophe. Reports its progress in images, and about every second answers with the rows so far, so that whoever
    cancels keeps them.

    Args:
        files: Up to 1,000 image files, or a zip of them (at most 64 MB).
        checkpoint: As for `predict`.
    """
    start = time.perf_counter()

    def work(progress: Progress) -> Table:
        classifier = get_classifier(checkpoint)
        try:
            images = unpack(read_uploads(files))
        except BadBatch as error:
            raise UserError(str(error)) from error
        return predict_all(classifier, images, progress)

    async for table in stream_for_caller(work, "images", gives_way=True):
        facts = {
            "rows": [asdict(row) for row in table.rows],
            "messages": table.messages,
            "failed": sum(bool(row.error) for row in table.rows),
            "total": table.total,
            "checkpoint": asdict(table.classifier.info),
            "seconds": _seconds_since(start),
        }
        yield facts, answers.save_text(to_csv(table.rows, table.classifier.label_names), "predictions.csv")


def methods(checkpoint: str = "default") -> list[dict]:
    """List the ways to explain, and how good each is for a checkpoint.

    Answers with a JSON list: `key`, `title`, `summary`, `paper`, `unit`, `signed`, `passes` (what a map costs, in
    forward passes), `settings` (those that `explain` accepts, with their defaults), `quality` (measured on test images
    with a tumor box, {measure: {value, low, high, n}} with a 95 % interval, null if not measured; `pointing_game`: how
    often the highest pixel lies inside the box, `energy_lift`: evidence inside the box, times chance, `srg`: how much
    sooner the probability falls when the most important pixels are replaced first) and `not_possible_because` (null if
    the method works on this checkpoint).

    Args:
        checkpoint: As for `predict`.
    """
    classifier = get_classifier(checkpoint)
    return [answers.describe_method(classifier, key) for key in METHODS]


def checkpoints() -> list[dict]:
    """List the models that this server offers, the default first, without those that cannot be loaded at the moment.

    Answers with a JSON list: `id`, `revision`, `architecture`, `label_names`, and `metrics` (`split`, `seed`,
    `validation` and `test`: measured values with 95 % intervals and n).
    """
    listed = []
    for checkpoint in allowed_checkpoints():
        try:
            listed.append(answers.describe_checkpoint(get_classifier(checkpoint)))
        except UserError:
            continue
    return listed


def _checked_options(call: ExplainCall) -> dict[str, float]:
    """Return the settings of the method; raises `UserError` for options that make no sense."""
    _check_number("opacity", call.opacity, 0, 1)
    if not isinstance(call.outline, bool):
        raise UserError("outline must be true or false.")
    for name, value, known in (("size", call.size, SIZES), ("bar", call.bar, BARS)):
        if value not in known:
            raise UserError(f"{name} must be one of: {', '.join(known)}.")
    settings = {key: getattr(call, key) for key in answers.API_SETTINGS if getattr(call, key) is not None}
    for key, value in settings.items():
        _check_number(key, value, MIN_STRIDE, 1)
    return settings


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{name} must be a number from {low} to {high}.")


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
