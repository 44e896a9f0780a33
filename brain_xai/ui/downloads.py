"""What a visitor can save: the map, its numbers, and a page to print. The names of the files say what is in them."""

import io
import json
from dataclasses import asdict

from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from brain_xai.explanation import Explanation
from brain_xai.report import report_html
from brain_xai.ui import texts
from brain_xai.ui.inputs import UserError, get_classifier
from brain_xai.ui.language import _
from brain_xai.ui.session import Question
from brain_xai.ui.viewer import colors_mean, draw_map


def save_map(question: Question) -> str:
    """Return the path of the map on show as a PNG."""
    buffer = io.BytesIO()
    explanation = _shown(question)
    draw_map(question, explanation, bar=colors_mean(explanation)).save(buffer, "PNG")
    return _saved(question, buffer.getvalue(), "png")


def save_numbers(question: Question) -> str:
    """Return the path of the attribution on show, with everything needed to read it, as JSON."""
    explanation = _shown(question)
    facts = {
        "method": explanation.method,
        "label": explanation.label,
        "unit": explanation.unit,
        "scale": explanation.scale,
        "settings": explanation.settings,
        "probabilities": explanation.prediction.probabilities,
        "warnings": [asdict(warning) for warning in explanation.prediction.warnings],
        "checkpoint": asdict(explanation.prediction.checkpoint),
        "part_of_the_image": explanation.part,
        "attribution": [[float(f"{value:.5g}") for value in row] for row in explanation.attribution],
    }
    return _saved(question, json.dumps(facts).encode(), "json")


def save_report(question: Question) -> str:
    """Return the path of one page to print."""
    classifier = get_classifier(question.checkpoint, allow_fallback=True)
    page = report_html(classifier, _shown(question), translate=_, label_text=texts.label_text)
    return _saved(question, page.encode(), "html")


def _shown(question: Question) -> Explanation:
    if question.session.explanation is None:
        raise UserError(texts.MAP_EXPIRED)
    return question.session.explanation


def _saved(question: Question, content: bytes, suffix: str) -> str:
    """Save a file in Gradio's own folder, because only files there are deleted."""
    explanation = _shown(question)
    name = f"{explanation.label}_{explanation.method.replace('_', '-')}.{suffix}"
    return save_bytes_to_cache(content, name, get_upload_folder())
