"""One page to print per study: the strip, three slices with their maps, where the answers come from, and their limits.

Nothing of the files but their geometry is in it: no tag, no name.
"""

import base64
import io
from datetime import UTC, date, datetime
from html import escape

from PIL import Image

from brain_xai.classifier import PredictionWarning
from brain_xai.methods import METHODS
from brain_xai.study.explain import StudyExplanation
from brain_xai.study.strip import strip_html

SHOWN = 3
STYLE = """
@page { size: A4; margin: 12mm }
body { font: 13px/1.4 system-ui, sans-serif; color: #111; background: #fff; max-width: 186mm; margin: 0 auto }
h1 { font-size: 20px; margin: 0 } h2 { font-size: 15px; margin: 12px 0 4px }
p, ul { margin: 4px 0 } ul { padding-left: 18px }
.alert { border: 2px solid #b91c1c; padding: 4px 8px; font-weight: 600 }
.slices { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px }
figure { margin: 0; break-inside: avoid } img { width: 100%; display: block } figcaption { font-size: 12px }
table { border-collapse: collapse; font-size: 12px } td, th { text-align: left; padding: 1px 14px 1px 0 }
"""
DISCLAIMER = "Research software, not a medical device. Not for diagnosis. A radiologist has to look at every slice."
EACH_SLICE = (
    "Every slice is judged on its own. There is no answer for the patient here, and none can be had from a mean."
)
MAPS = "A map shows what the answer depends on. It does not show where a tumor is or how far it reaches."


def report_html(explained: StudyExplanation, when: date | None = None) -> str:
    """Return a report of a study as one self-contained HTML page for A4.

    Args:
        explained: The study.
        when: The date on the report, today (UTC) by default.

    Returns:
        The page.
    """
    shown = explained.highlights(SHOWN)
    figures = "".join(_figure(explained, index) for index in shown)
    when = when or datetime.now(UTC).date()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Study report</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>Brain XAI: study report</h1><p class="alert">{DISCLAIMER}</p>{_facts(explained, when)}'
        f"{_warnings('Read this first', explained.warnings)}"
        f"<h2>Probability of a tumor in each slice</h2>{strip_html(explained)}<p>{EACH_SLICE}</p>"
        f"<h2>{_heading(explained, len(shown))}</h2>"
        f'<div class="slices">{figures}</div>{_limits(explained)}</body></html>'
    )


def _heading(explained: StudyExplanation, count: int) -> str:
    which = "The slice" if count == 1 else f"{count} slices"
    return f"{which} with the highest probability, and what speaks for {escape(explained.text(explained.label))} there"


def _facts(explained: StudyExplanation, when: date) -> str:
    study, info = explained.study, explained.predictions[0].checkpoint
    between, down, along = study.spacing
    rows = {
        "Study": f"{study.kind}, {len(study)} slices, {study.plane}, {between:.1f} mm apart, "
        f"pixels {down:.2f} × {along:.2f} mm",
        "Model": f"{info.id}, {info.architecture}, revision {info.revision}",
        "Map": f"{METHODS[explained.method].title} for {explained.text(explained.label)}; same colors in every slice",
        "Date": f"{when:%Y-%m-%d}",
    }
    return (
        "<table>"
        + "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
        + "</table>"
    )


def _figure(explained: StudyExplanation, index: int) -> str:
    prediction = explained.predictions[index]
    caption = f"<b>Slice {index + 1}</b>: {escape(explained.numbers(index))}{_warnings('', prediction.warnings)}"
    source = data_url(explained.explanation(index).image())
    return (
        f'<figure><img alt="Slice {index + 1} with its map" src="{source}"><figcaption>{caption}</figcaption></figure>'
    )


def _warnings(title: str, warnings: tuple[PredictionWarning, ...]) -> str:
    if not warnings:
        return ""
    heading = f"<h2>{title}</h2>" if title else ""
    return heading + "<ul>" + "".join(f"<li>{escape(warning.message)}</li>" for warning in warnings) + "</ul>"


def _limits(explained: StudyExplanation) -> str:
    labels = ", ".join(map(explained.text, explained.classifier.label_names))
    parts = [
        f"The model knows these answers only: {labels}. A stroke or a metastasis gets one of them, too.",
        MAPS,
    ]
    test = explained.classifier.metrics.get("test", {})
    accuracy = test.get("accuracy", {})
    if {"value", "low", "high"} <= accuracy.keys() and "n" in test:
        parts.append(
            f"It was right on {100 * accuracy['value']:.0f} % of {test['n']:,} test slices of its own collections "
            f"(95 % interval {100 * accuracy['low']:.0f} to {100 * accuracy['high']:.0f} %). "
            "On scans from other hospitals it is right less often. It was not measured on whole studies."
        )
    return "<h2>Limits</h2><ul>" + "".join(f"<li>{escape(part)}</li>" for part in parts) + "</ul>"


def data_url(image: Image.Image) -> str:
    """Return an image as a data URL, so that it is never a file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
