"""The two panels, scan and map, as HTML: the images go straight to the visitor and are never files on the server."""

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from brain_xai.color_bar import MARGIN, color_bar, ends
from brain_xai.explanation import Explanation
from brain_xai.overlay import Bar, draw_box, draw_outline
from brain_xai.ui import contrary, texts
from brain_xai.ui.language import _
from brain_xai.ui.session import Question

MAX_SIDE = 1024
COVERED_COLOR = (0, 0, 0)
# Where the colors are in the color bar, which is drawn below the map in the visitor's language.
BAR_WIDTH, BAR_TOP, BAR_BOTTOM = 320, 12, 32
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
    tappable = explanation is not None and not question.as_model
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return _panel(image, _(texts.SCAN_ALT), words, "tappable" if tappable else "")


def map_html(question: Question, explanation: Explanation, alt: str) -> str:
    """Return the panel of a map, with what its colors mean."""
    bar = color_bar(BAR_WIDTH, explanation.scale, question.opacity, signed=explanation.signed)
    colors = data_url(bar.crop((MARGIN, BAR_TOP, bar.width - MARGIN, BAR_BOTTOM)))
    words = "".join(f"<span>{escape(word)}</span>" for word in colors_mean(explanation))
    legend = f'<figcaption class="legend" style="--colors:url({colors})">{words}</figcaption>'
    return _panel(draw_map(question, explanation), alt, legend, "")


def draw_map(question: Question, explanation: Explanation, bar: Bar = "none") -> Image.Image:
    """Draw a map as the visitor wants to see it, with a line around what speaks strongly against its answer."""
    case = question.session.case
    box = case.box if case and question.show_box else None
    on = "model" if question.as_model else "original"
    drawn = explanation.image(question.opacity, question.outline, on=on, box=box, bar=bar)
    against = contrary.spot(explanation)
    if against is None:
        return drawn
    plain = explanation.image(question.opacity, question.outline, on=on, box=box, bar="none")
    drawn.paste(draw_outline(plain, against, explanation, on), (0, 0))
    return drawn


def colors_mean(explanation: Explanation) -> tuple[str, str]:
    """Return what both ends of the colors of a map mean."""
    left, right = ends(explanation.signed)
    return _(left), _(right)


def _panel(image: Image.Image, alt: str, words: str, kind: str) -> str:
    aspect = image.width / image.height
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
