"""The public API: what /predict, /explain, /compare and /checkpoints accept and answer."""

import io
import threading
import time
from collections.abc import Callable, Sequence
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
from brain_xai.overlay import draw_overlay
from brain_xai.ui import texts
from brain_xai.ui.inputs import (
    Upload,
    UserError,
    compare_methods,
    explain_or_refuse,
    get_classifier,
    measured_quality,
    read_upload,
)
from brain_xai.ui.jobs import QUICK, SLOW, BackgroundJob, Progress

PUBLISHED_METRICS = ("split", "seed", "validation", "test")
Answer = TypeVar("Answer")


def add_endpoints() -> None:
    """Define the endpoints in the current page.

    They are events of hidden components, because these give the API its types, its default values and files that are
    deleted: `gr.api` derives types from the annotations, but neither accepts an upload nor deletes what it returns.
    """
    with gr.Column(visible=False):
        image = gr.Image(type="filepath", image_mode=None, label="image", buttons=[])
        checkpoint = gr.Textbox("default", label="checkpoint")
        method = gr.Textbox("grad_cam", label="method")
        target = gr.Textbox("predicted", label="target")
        overlay = gr.Image(format="png", label="overlay", buttons=[])
        attribution = gr.File(label="attribution")
        gallery = gr.Gallery(format="png", label="gallery", buttons=[])
        facts = gr.JSON(label="facts")
        call = gr.Button()

    def endpoint(name: str, function: Callable, inputs: list, outputs: Any, queue: dict) -> None:
        call.click(
            function,
            inputs,
            outputs,
            api_name=name,
            api_description=texts.ENDPOINTS[name],
            preprocess=False,
            **queue,
        )

    endpoint("predict", predict, [image, checkpoint], facts, QUICK)
    endpoint("explain", explain_image, [image, checkpoint, method, target], [overlay, attribution, facts], SLOW)
    endpoint("compare", compare_image, [image, checkpoint, target], [gallery, facts], SLOW)
    endpoint("checkpoints", checkpoints, [], facts, QUICK)


def refuse_unreadable_calls(page: gr.Blocks) -> None:
    """Answer calls that Gradio cannot read, such as a text instead of a file, with a sentence.

    Gradio's own errors for these calls tell the caller nothing and quote in the log what the caller sent. A file
    without its "meta" passes Gradio's check that a path is an upload, so any image on the server could be read.
    """
    preprocess_data = page.preprocess_data

    async def checked(function: Any, inputs: Sequence[Any], *arguments: Any, **keywords: Any) -> Any:
        try:
            if any(isinstance(value, dict) and not is_file_obj_with_meta(value) for value in inputs):
                raise UserError(texts.UNREADABLE_CALL)
            return await preprocess_data(function, inputs, *arguments, **keywords)
        except gr.Error:
            raise
        except Exception:
            raise UserError(texts.UNREADABLE_CALL) from None

    page.preprocess_data = checked


def predict(image: Upload, checkpoint: str = "default") -> dict:
    """Answer /predict."""
    start = time.perf_counter()
    classifier = get_classifier(checkpoint)
    scan = read_upload(image)
    prediction = classifier.predict(scan)
    height, width = classifier.preprocessing.size
    return {
        **_answer(prediction),
        "checkpoint": asdict(prediction.checkpoint),
        "input": {"width": scan.width, "height": scan.height, "model_width": width, "model_height": height},
        "warnings": [asdict(warning) for warning in prediction.warnings],
        "seconds": _seconds_since(start),
    }


async def explain_image(
    image: Upload, checkpoint: str = "default", method: str = "grad_cam", target: str | int = "predicted"
) -> tuple[Image.Image, str, dict]:
    """Answer /explain."""

    def work(progress: Progress) -> tuple[Image.Image, str, dict]:
        start = time.perf_counter()
        classifier = get_classifier(checkpoint)
        try:
            explanation = explain_or_refuse(classifier, read_upload(image), method, target, progress)
        except MethodNotApplicable as reason:
            raise UserError(str(reason)) from reason
        facts = {
            "method": explanation.method,
            **_subject(explanation),
            **_numbers(explanation),
            "quality": measured_quality(classifier, method),
            **_provenance(explanation, start),
        }
        return draw_overlay(explanation), _saved(explanation), facts

    return await _stop_with_caller(work)


async def compare_image(
    image: Upload, checkpoint: str = "default", target: str | int = "predicted"
) -> tuple[list[tuple[Image.Image, str]], dict]:
    """Answer /compare."""

    def work(progress: Progress) -> tuple[list[tuple[Image.Image, str]], dict]:
        start = time.perf_counter()
        classifier = get_classifier(checkpoint)
        comparison = compare_methods(classifier, read_upload(image), target, progress)
        explanations = {explanation.method: explanation for explanation in comparison.explanations}
        first = comparison.explanations[0]
        facts = {
            **_subject(first),
            "methods": {
                method: {**_numbers(explanation), "quality": measured_quality(classifier, method)}
                for method, explanation in explanations.items()
            },
            "not_applicable": comparison.not_applicable,
            **_provenance(first, start),
        }
        return [(draw_overlay(explanation), method) for method, explanation in explanations.items()], facts

    return await _stop_with_caller(work)


def checkpoints() -> list[dict]:
    """Answer /checkpoints; leaves out the ones that cannot be loaded at the moment."""
    listed = []
    for checkpoint in allowed_checkpoints():
        try:
            classifier = get_classifier(checkpoint)
        except UserError:
            continue
        metrics = {key: classifier.metrics[key] for key in PUBLISHED_METRICS if key in classifier.metrics}
        listed.append(asdict(classifier.info) | {"label_names": list(classifier.label_names), "metrics": metrics})
    return listed


async def _stop_with_caller(work: Callable[[Progress], Answer]) -> Answer:
    """Run work in the background; when the caller cancels, it also ends on the server."""
    stop_event = threading.Event()
    job = BackgroundJob(work, stop_event)
    try:
        return await job.wait()
    finally:
        stop_event.set()


def _answer(prediction: Prediction) -> dict:
    return {"label": prediction.label, "probabilities": prediction.probabilities}


def _subject(explanation: Explanation) -> dict:
    """Return which class is explained, and what the model answered."""
    return {
        "target": explanation.target,
        "label": explanation.label,
        "prediction": _answer(explanation.prediction),
    }


def _numbers(explanation: Explanation) -> dict:
    """Return what is needed to read the numbers of an attribution, and how they were computed."""
    return {"unit": explanation.unit, "scale": explanation.scale, "settings": explanation.settings}


def _provenance(explanation: Explanation, start: float) -> dict:
    """Return which weights answered, with their warnings, and how long it took."""
    return {
        "warnings": [asdict(warning) for warning in explanation.prediction.warnings],
        "checkpoint": asdict(explanation.prediction.checkpoint),
        "seconds": _seconds_since(start),
    }


def _saved(explanation: Explanation) -> str:
    """Save the attribution and return its path; in Gradio's own folder, because only files there are deleted."""
    buffer = io.BytesIO()
    np.save(buffer, explanation.attribution)
    return save_bytes_to_cache(buffer.getvalue(), "attribution.npy", get_upload_folder())


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
