"""One page to print per study: the strip, three slices with their maps, where the answers come from, and their limits.

Nothing of the files but their geometry is in it: no tag, no name.
"""

import base64
import io
from collections.abc import Iterable
from datetime import UTC, date, datetime
from html import escape

from PIL import Image

from brain_xai.classifier import PredictionWarning
from brain_xai.color_bar import ends
from brain_xai.methods import METHODS
from brain_xai.study.explain import StudyExplanation
from brain_xai.study.strip import Translate, strip_html

SHOWN = 3
STYLE = """
@page { size: A4; margin: 12mm }
body { font: 13px/1.4 system-ui, sans-serif; color: #111; background: #fff; max-width: 186mm; margin: 0 auto }
h1 { font-size: 20px; margin: 0 } h2 { font-size: 15px; margin: 12px 0 4px }
p, ul { margin: 4px 0 } ul { padding-left: 18px }
.alert { border: 2px solid #b91c1c; padding: 4px 8px; font-weight: 600 }
.slices { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 10px }
@media screen { body { padding: 12px } }
figure { margin: 0; break-inside: avoid } img { width: 100%; display: block } figcaption { font-size: 12px }
table { border-collapse: collapse; font-size: 12px } td, th { text-align: left; padding: 1px 14px 1px 0 }
"""
DISCLAIMER = "Research software, not a medical device. Not for diagnosis. A radiologist has to look at every slice."
EACH_SLICE = (
    "Every slice is judged on its own. There is no answer for the patient here, and none can be had from a mean."
)
MAPS = "A map shows what the answer depends on. It does not show where a tumor is or how far it reaches."
TITLE = "Brain XAI: study report"
READ_FIRST = "Read this first"
PROBABILITY = "Probability of a tumor in each slice"
HIGHEST_ONE = "The slice with the highest probability, and what speaks for {label} there"
HIGHEST = "{count} slices with the highest probability, and what speaks for {label} there"
STUDY_FACTS = "{kind}, {count} slices, {plane}, {spacing} mm apart, pixels {pixels} mm"
MAP_FACTS = "{method} for {label}; same colors in every slice"
KNOWS_ONLY = "The model knows these answers only: {labels}. A stroke or a metastasis gets one of them, too."
RIGHT = (
    "It was right on {value} % of {n} test slices of its own collections (95 % interval {low} to {high} %). "
    "On scans from other hospitals it is right less often. It was not measured on whole studies."
)


def report_html(explained: StudyExplanation, when: date | None = None, translate: Translate = str) -> str:
    """Return a report of a study as one self-contained HTML page for A4.

    Args:
        explained: The study.
        when: The date on the report, today (UTC) by default.
        translate: Returns an English sentence or word in another language; {names} in it stay as they are.

    Returns:
        The page.
    """
    shown = explained.highlights(SHOWN)
    page = _Page(explained, translate)
    strip = strip_html(explained, translate=translate)
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{page.say(TITLE)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>{page.say(TITLE)}</h1><p class="alert">{page.say(DISCLAIMER)}</p>'
        f"{page.facts(when or datetime.now(UTC).date())}{page.warnings(READ_FIRST, explained.warnings)}"
        f"<h2>{page.say(PROBABILITY)}</h2>{strip}<p>{page.say(EACH_SLICE)}</p>"
        f"<h2>{page.say(HIGHEST if len(shown) > 1 else HIGHEST_ONE, count=len(shown), label=page.label)}</h2>"
        f'<div class="slices">{"".join(map(page.figure, shown))}</div>{page.limits()}</body></html>'
    )


class _Page:
    """The parts of a report, in one language; every text in it is escaped."""

    def __init__(self, explained: StudyExplanation, translate: Translate):
        self._explained, self._translate = explained, translate
        self.label = self._name(explained.label)

    def say(self, sentence: str, **values: object) -> str:
        """Return a sentence in the reader's language, escaped; without values braces stay as they are."""
        text = self._translate(sentence)
        return escape(text.format(**values) if values else text)

    def facts(self, when: date) -> str:
        """Return what was read, by which model and method it was explained, and when."""
        study, info = self._explained.study, self._explained.predictions[0].checkpoint
        between, down, along = study.spacing
        rows = {
            "Study": self.say(
                STUDY_FACTS,
                kind=study.kind,
                count=len(study),
                plane=self._translate(study.plane),
                spacing=f"{between:.1f}",
                pixels=f"{down:.2f} × {along:.2f}",
            ),
            "Model": escape(f"{info.id}, {info.architecture}, revision {info.revision}"),
            "Map": self.say(MAP_FACTS, method=METHODS[self._explained.method].title, label=self.label),
            "Date": f"{when:%Y-%m-%d}",
        }
        lines = (f"<tr><th>{self.say(name)}</th><td>{text}</td></tr>" for name, text in rows.items())
        return f"<table>{''.join(lines)}</table>"

    def figure(self, index: int) -> str:
        """Return a slice with its map, its probabilities and its warnings."""
        explanation, prediction = self._explained.explanation(index), self._explained.predictions[index]
        left, right = ends(explanation.signed)
        source = data_url(explanation.image(bar=(self._translate(left), self._translate(right))))
        numbers = escape(self._explained.numbers(index, self._translate))
        return (
            f'<figure><img alt="{self.say("Slice {number} with its map", number=index + 1)}" src="{source}">'
            f"<figcaption><b>{self.say('Slice {number}', number=index + 1)}</b>: {numbers}"
            f"{self.warnings('', prediction.warnings)}</figcaption></figure>"
        )

    def warnings(self, title: str, warnings: tuple[PredictionWarning, ...]) -> str:
        """Return warnings as a list, below a title if it is not empty; "" for none."""
        if not warnings:
            return ""
        heading = f"<h2>{self.say(title)}</h2>" if title else ""
        return heading + _list(self.say(warning.message) for warning in warnings)

    def limits(self) -> str:
        """Return what the answers do not say."""
        labels = ", ".join(map(self._name, self._explained.classifier.label_names))
        parts = [self.say(KNOWS_ONLY, labels=labels), self.say(MAPS)]
        test = self._explained.classifier.metrics.get("test", {})
        accuracy = test.get("accuracy", {})
        if {"value", "low", "high"} <= accuracy.keys() and "n" in test:
            measured = {key: f"{100 * accuracy[key]:.0f}" for key in ("value", "low", "high")}
            parts.append(self.say(RIGHT, n=f"{test['n']:,}", **measured))
        return f"<h2>{self.say('Limits')}</h2>{_list(parts)}"

    def _name(self, label: str) -> str:
        return self._translate(self._explained.text(label))


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def data_url(image: Image.Image) -> str:
    """Return an image as a data URL, so that it is never a file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
