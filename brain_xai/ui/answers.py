"""What the API answers with: predictions, explanations and methods as JSON."""

import inspect
from dataclasses import asdict

from PIL import Image

from brain_xai.classifier import Classifier, Prediction
from brain_xai.explanation import Explanation
from brain_xai.framing import frame
from brain_xai.methods import METHODS
from brain_xai.ui.inputs import measured_quality

PUBLISHED_METRICS = ("split", "seed", "validation", "test")
# The methods' settings that callers may choose.
API_SETTINGS = ("window", "stride")


def describe_prediction(prediction: Prediction) -> dict:
    """Return the answer without its warnings: `label` and calibrated `probabilities`."""
    return {"label": prediction.label, "probabilities": prediction.probabilities}


def describe_warnings(prediction: Prediction) -> list[dict]:
    """Return what must be known about an answer: {"code", "message"} each."""
    return [asdict(warning) for warning in prediction.warnings]


def describe_input(classifier: Classifier, scan: Image.Image) -> dict:
    """Return the sizes of the image and of what the model sees of it, in pixels, and which part it sees.

    `part` is left, top, right, bottom in fractions of the image; it exceeds 0 to 1 where the model sees a black border.
    """
    height, width = classifier.preprocessing.size
    part = frame(scan).part if classifier.preprocessing.frame else (0.0, 0.0, 1.0, 1.0)
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


def describe_provenance(explanation: Explanation) -> dict:
    """Return which weights answered, and what must be known about the answer."""
    return {
        "warnings": describe_warnings(explanation.prediction),
        "checkpoint": asdict(explanation.prediction.checkpoint),
    }
