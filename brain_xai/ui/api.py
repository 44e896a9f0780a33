"""The public API: what /predict, /explain, /compare and /checkpoints answer."""

import io
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from gradio_client.utils import is_file_obj_with_meta
from PIL import Image

from brain_xai.checkpoint.catalog import allowed_checkpoints
from brain_xai.classifier import Prediction
from brain_xai.explanation import Explanation, MethodNotApplicable
from brain_xai.ui import texts
from brain_xai.ui.comparison import Comparison, compare
from brain_xai.ui.inputs import Refusal, Upload, chosen_classifier, drawn, explained, measured_quality, uploaded_scan
from brain_xai.ui.jobs import Progress, Work

METRICS_SHOWN = ("split", "seed", "validation", "test")
Answer = TypeVar("Answer")


def predict(image: Upload, checkpoint: str = "default") -> dict:
    """Answer /predict."""
    start = time.perf_counter()
    classifier = chosen_classifier(checkpoint)
    scan = uploaded_scan(image)
    prediction = classifier.predict(scan)
    height, width = classifier.preprocessing.size
    return {
        **_answer(prediction),
        "checkpoint": asdict(prediction.checkpoint),
        "input": {"width": scan.width, "height": scan.height, "model_width": width, "model_height": height},
        "warnings": [asdict(warning) for warning in prediction.warnings],
        "seconds": _seconds_since(start),
    }


async def explain_scan(
    image: Upload, checkpoint: str = "default", method: str = "grad_cam", target: str | int = "predicted"
) -> tuple[Image.Image, str, dict]:
    """Answer /explain."""
    return await _stoppable(lambda progress: _explain_scan(image, checkpoint, method, target, progress))


async def compare_scan(
    image: Upload, checkpoint: str = "default", target: str | int = "predicted"
) -> tuple[list[tuple[Image.Image, str]], dict]:
    """Answer /compare."""
    return await _stoppable(lambda progress: _compare_scan(image, checkpoint, target, progress))


def checkpoints() -> list[dict]:
    """Answer /checkpoints; leaves out the ones that cannot be loaded at the moment."""
    listed = []
    for checkpoint in allowed_checkpoints():
        try:
            classifier = chosen_classifier(checkpoint)
        except Refusal:
            continue
        metrics = {key: classifier.metrics[key] for key in METRICS_SHOWN if key in classifier.metrics}
        listed.append(asdict(classifier.info) | {"label_names": list(classifier.label_names), "metrics": metrics})
    return listed


def refuse_unreadable_calls(page: gr.Blocks) -> None:
    """Answer calls that gradio cannot read, such as a text instead of a file, with a sentence.

    Gradio's own errors for these calls tell the caller nothing and quote in the log what the caller sent. A file
    without its "meta" passes gradio's check that a path is an upload, so any image on the server could be read.
    """
    preprocess_data = page.preprocess_data

    async def checked(function: Any, inputs: list[Any], *arguments: Any, **keywords: Any) -> Any:
        try:
            if any(isinstance(value, dict) and not is_file_obj_with_meta(value) for value in inputs):
                raise Refusal(texts.UNREADABLE_CALL)
            return await preprocess_data(function, inputs, *arguments, **keywords)
        except gr.Error:
            raise
        except Exception:
            raise Refusal(texts.UNREADABLE_CALL) from None

    page.preprocess_data = checked


async def _stoppable(function: Callable[[Progress], Answer]) -> Answer:
    """Run work for a caller; one who cancels the job ends it on the server, too."""
    stopped = threading.Event()
    work = Work(function, stopped)
    try:
        return await work.finished()
    finally:
        stopped.set()


def _explain_scan(
    image: Upload, checkpoint: str, method: str, target: str | int, progress: Progress
) -> tuple[Image.Image, str, dict]:
    start = time.perf_counter()
    classifier = chosen_classifier(checkpoint)
    try:
        explanation = explained(classifier, uploaded_scan(image), method, target, progress)
    except MethodNotApplicable as reason:
        raise Refusal(str(reason)) from reason
    facts = {
        "method": explanation.method,
        "target": explanation.target,
        "label": explanation.label,
        "prediction": _answer(explanation.prediction),
        **_numbers(explanation),
        "quality": measured_quality(classifier, method),
        "warnings": [asdict(warning) for warning in explanation.prediction.warnings],
        "checkpoint": asdict(explanation.prediction.checkpoint),
        "seconds": _seconds_since(start),
    }
    return drawn(explanation), _saved(explanation), facts


def _compare_scan(
    image: Upload, checkpoint: str, target: str | int, progress: Progress
) -> tuple[list[tuple[Image.Image, str]], dict]:
    start = time.perf_counter()
    classifier = chosen_classifier(checkpoint)
    comparison: Comparison = compare(classifier, uploaded_scan(image), target, progress)
    explanations = {explanation.method: explanation for explanation in comparison.explanations}
    first = comparison.explanations[0]
    facts = {
        "target": first.target,
        "label": first.label,
        "prediction": _answer(first.prediction),
        "methods": {
            method: {**_numbers(explanation), "quality": measured_quality(classifier, method)}
            for method, explanation in explanations.items()
        },
        "not_applicable": comparison.not_applicable,
        "warnings": [asdict(warning) for warning in first.prediction.warnings],
        "checkpoint": asdict(first.prediction.checkpoint),
        "seconds": _seconds_since(start),
    }
    return [(drawn(explanation), method) for method, explanation in explanations.items()], facts


def _answer(prediction: Prediction) -> dict:
    return {"label": prediction.label, "probabilities": prediction.probabilities}


def _numbers(explanation: Explanation) -> dict:
    """Return what is needed to read the numbers of an attribution, and how they were computed."""
    return {
        "unit": explanation.unit,
        "scale": explanation.scale,
        "settings": explanation.settings,
    }


def _saved(explanation: Explanation) -> str:
    """Save the raw map; straight into the folder whose files gradio deletes, for it would leave any other file."""
    buffer = io.BytesIO()
    np.save(buffer, explanation.attribution)
    return save_bytes_to_cache(buffer.getvalue(), "attribution.npy", get_upload_folder())


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
