"""The two panels, scan and map, as HTML: the images go straight to the visitor and are never files on the server."""

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from brain_xai.explanation import Explanation
from brain_xai.overlay import draw_box
from brain_xai.ui import texts
from brain_xai.ui.language import _
from brain_xai.ui.session import Question

MAX_SIDE = 1024
COVERED_COLOR = (0, 0, 0)
FULL_SCREEN_ICON = (
    '<svg viewBox="0 0 24 24" width="22" height="22" fill="none" stroke="currentColor" stroke-width="2" '
    'aria-hidden="true"><path d="M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5"/></svg>'
)


def scan_html(question: Question, explanation: Explanation | None, gray: Image.Image, caption: str) -> str:
    """Return the panel of the scan: with the radiologists' box if it is asked for, and with what is covered."""
    session = question.session
    image = gray.convert("RGB")
    if question.as_model and explanation is not None:
        image = explanation.view
    elif session.covered is not None:
        pixels = np.array(image)
        pixels[session.covered] = COVERED_COLOR
        image = Image.fromarray(pixels)
    if question.show_box and session.case and session.case.box and not question.as_model:
        image = draw_box(image, session.case.box)
    return _panel(image, _(texts.SCAN_ALT), caption, "tappable" if caption == _(texts.TAP) else "")


def map_html(image: Image.Image, alt: str, aspect: float) -> str:
    """Return the panel of a map, an overlay with its color bar; `aspect` is that of the scan above the bar."""
    return _panel(image, alt, "", "", aspect)


def draw_map(question: Question, explanation: Explanation) -> Image.Image:
    """Draw a map as the visitor wants to see it."""
    case = question.session.case
    box = case.box if case and question.show_box else None
    on = "model" if question.as_model else "original"
    return explanation.image(question.opacity, question.outline, on=on, box=box)


def _panel(image: Image.Image, alt: str, caption: str, kind: str, aspect: float = 0.0) -> str:
    aspect = aspect or image.width / image.height
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="panel {kind}" style="--aspect:{aspect:.3f}"><img src="{data_url(image)}" alt="{escape(alt)}" '
        f'width="{image.width}" height="{image.height}" draggable="false">'
        f'<button type="button" class="full-screen" aria-label="{_(texts.FULL_SCREEN)}" title="{_(texts.FULL_SCREEN)}">'
        f"{FULL_SCREEN_ICON}</button>{words}</figure>"
    )


def data_url(image: Image.Image, quality: int = 88) -> str:
    """Return an image of at most 1,024 pixels a side as a data URL."""
    image = image.copy()
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
