"""What the API answers with: predictions, explanations and methods as JSON, maps and tables as files."""

import inspect
import io
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from brain_xai.classifier import Classifier, Prediction, PredictionWarning
from brain_xai.explanation import Explanation
from brain_xai.methods import METHODS
from brain_xai.preprocess import Part
from brain_xai.ui.inputs import measured_quality

PUBLISHED_METRICS = ("split", "seed", "validation", "test")
# The methods' settings that callers may choose.
API_SETTINGS = ("window", "stride")


def describe_prediction(prediction: Prediction) -> dict:
    """Return the answer without its warnings: `label` and calibrated `probabilities`."""
    return {"label": prediction.label, "probabilities": prediction.probabilities}


def describe_input(classifier: Classifier, scan: Image.Image, part: Part) -> dict:
    """Return the sizes of the image and of what the model sees of it, in pixels, and which part it sees.

    `part` is left, top, right, bottom in fractions of the image; it exceeds 0 to 1 where the model sees a black border.
    """
    height, width = classifier.preprocessing.size
    return {
        "width": scan.width,
        "height": scan.height,
        "model_width": width,
        "model_height": height,
        "part": [round(edge, 4) for edge in part],
    }


def describe_subject(explanation: Explanation) -> dict:
    """Return which class is explained, and what the model answered."""
    return {
        "target": explanation.target,
        "label": explanation.label,
        "prediction": describe_prediction(explanation.prediction),
    }


def describe_numbers(classifier: Classifier, explanation: Explanation) -> dict:
    """Return what is needed to read an attribution, how it was computed, and how good such maps are."""
    return {
        "unit": explanation.unit,
        "scale": explanation.scale,
        "signed": explanation.signed,
        "settings": explanation.settings,
        "quality": measured_quality(classifier, explanation.method),
    }


def describe_method(classifier: Classifier, key: str) -> dict:
    """Return what a method is, how good its maps are for a checkpoint, and why it does not work there, if so."""
    method = METHODS[key]
    parameters = inspect.signature(method.attribute).parameters.values()
    return {
        "key": key,
        "title": method.title,
        "summary": method.summary,
        "paper": method.paper,
        "unit": method.unit,
        "signed": method.signed,
        "passes": method.forward_passes,
        "settings": {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in API_SETTINGS},
        "quality": measured_quality(classifier, key),
        "not_possible_because": method.reason_unsupported(classifier),
    }


def describe_checkpoint(classifier: Classifier) -> dict:
    """Return which weights a checkpoint has, its labels, and its measured metrics."""
    metrics = {key: classifier.metrics[key] for key in PUBLISHED_METRICS if key in classifier.metrics}
    return asdict(classifier.info) | {"label_names": list(classifier.label_names), "metrics": metrics}


def describe_provenance(explanation: Explanation, warnings: Iterable[PredictionWarning] = ()) -> dict:
    """Return which weights answered, and what must be known about the answer, with further `warnings`."""
    return {
        "warnings": [asdict(warning) for warning in (*explanation.prediction.warnings, *warnings)],
        "checkpoint": asdict(explanation.prediction.checkpoint),
    }


def save_attribution(explanation: Explanation) -> str:
    """Save an attribution as .npy and return its path."""
    buffer = io.BytesIO()
    np.save(buffer, explanation.attribution)
    return _save(buffer.getvalue(), "attribution.npy")


def save_attributions(explanations: dict[str, Explanation]) -> str:
    """Save attributions by the keys of their methods as .npz and return its path."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{key: explanation.attribution for key, explanation in explanations.items()})
    return _save(buffer.getvalue(), "attributions.npz")


def save_text(text: str, name: str) -> str:
    """Save a text and return its path."""
    return _save(text.encode(), name)


def _save(content: bytes, name: str) -> str:
    """Save a file in Gradio's own folder, because only files there are deleted."""
    return save_bytes_to_cache(content, name, get_upload_folder())
