"""One page to print or to keep: the scan, the map, the answer, how good both are measured to be, and what made them.

It holds nothing of the file that the scan came from but its pixels.
"""

import base64
import io
from collections.abc import Callable, Mapping
from datetime import date
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from brain_xai.classifier import Classifier
from brain_xai.color_bar import MARGIN, color_bar, ends
from brain_xai.explanation import Explanation
from brain_xai.methods import METHODS
from brain_xai.overlay import enlarged
from brain_xai.summary import Summary, Translate, percent, summarize
from brain_xai.version import __version__

MAX_IMAGE_SIDE = 1000
# A collection of scans counts from this number on; fewer say too little.
MIN_SCANS = 50
NOT_RULED_OUT = "This does not rule out a tumor."
LIMITS = (
    "A map shows what moved the score of the model, not where a tumor is.",
    "The model sees one slice and knows only the classes above: nothing of stroke, bleeding, metastases or children.",
    "Left and right are those of the image. An image does not tell which side of the patient that is.",
)
STYLE = """
@page { size: A4; margin: 11mm 14mm; }
* { box-sizing: border-box; }
@media screen { body { padding: 4mm; } }
body { font: 9.5pt/1.35 system-ui, "Segoe UI", Roboto, sans-serif; color: #1c1c1c; background: #fff;
  max-width: 182mm; margin: 0 auto; }
header { display: flex; justify-content: space-between; align-items: baseline; border-bottom: 1.5pt solid #1c1c1c; }
h1 { font-size: 15pt; margin: 0; }
h2 { font-size: 10.5pt; margin: 3mm 0 1mm; }
p { margin: 0 0 1.5mm; }
.notice { border-left: 3pt solid #1c1c1c; background: #f1f1f1; padding: 1mm 3mm; margin: 2mm 0;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 6mm; margin: 2mm 0; align-items: start; }
figure { margin: 0; }
figure img { display: block; width: 100%; max-height: var(--height); object-fit: contain; background: #000; }
figure img.colors { height: 4mm; object-fit: fill; margin-top: 1.5mm; }
figcaption { margin-bottom: 1mm; }
.ends { display: flex; justify-content: space-between; }
.answer { font-size: 13pt; font-weight: 600; margin: 0 0 1mm; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .5mm 2mm .5mm 0; text-align: left; vertical-align: top; font-weight: normal; }
.facts th { width: 20mm; color: #555; }
.facts td { overflow-wrap: anywhere; }
.bars th { width: 52mm; }
.bars td:last-child { width: 30mm; text-align: right; }
.bar { background: #d9d9d9; height: 3.4mm; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.bar div { background: #4a4a4a; height: 100%; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
ul { margin: 0; padding-left: 5mm; }
"""


def report_html(
    classifier: Classifier,
    explanation: Explanation,
    summary: Summary | None = None,
    translate: Translate = str,
    label_text: Callable[[str], str] | None = None,
    made: date | None = None,
) -> str:
    """Write one page about an answer and its map, to print or to keep.

    Args:
        classifier: The model that was explained.
        explanation: The map.
        summary: What the map shows, with other methods; by default that of this map alone.
        translate: Returns the translation of an English sentence; {names} in it stay as they are.
        label_text: Returns what people read for a label; by default the label, "no tumor recognized" for no tumor.
        made: The date on the page, today by default.

    Returns:
        A whole HTML page of one A4 sheet, with its images inside: no scripts, nothing from elsewhere, and nothing of
        the file but its pixels.
    """
    summary = summary or summarize(explanation, classifier=classifier)
    page = _Page(classifier, explanation, translate, label_text or _label_text(classifier))
    parts = (
        page.header(made or date.today()),
        page.warnings(),
        page.answer(),
        page.images(),
        f"<p>{escape(summary.text(translate))}</p>",
        '<div class="columns">',
        page.section("How good is it?", page.quality()),
        page.section("How was it made?", page.provenance()),
        "</div>",
        page.section("Limits", _list([page.say(limit) for limit in LIMITS])),
    )
    title = escape(translate("Report of Brain XAI"))
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


class _Page:
    """The parts of a report, in one language; every text in it is escaped."""

    def __init__(
        self,
        classifier: Classifier,
        explanation: Explanation,
        translate: Translate,
        label_text: Callable[[str], str],
    ):
        self.classifier, self.explanation = classifier, explanation
        self.translate, self.label_text = translate, label_text

    def say(self, sentence: str, **values: object) -> str:
        """Return a sentence in the reader's language, escaped; without values braces stay as they are."""
        text = self.translate(sentence)
        return escape(text.format(**values) if values else text)

    def section(self, title: str, content: str) -> str:
        return f"<section><h2>{self.say(title)}</h2>{content}</section>"

    def header(self, made: date) -> str:
        return (
            f"<header><h1>{self.say('Brain XAI: what a model sees in a scan')}</h1><span>{made.isoformat()}</span>"
            f'</header><p class="notice"><strong>{self.say("For research and teaching. This is not a diagnosis.")}'
            f"</strong> {self.say('If you are worried about a scan, ask a doctor.')}</p>"
        )

    def warnings(self) -> str:
        messages = (warning.message for warning in self.explanation.prediction.warnings)
        return "".join(f'<p class="notice">{self.say("Warning:")} {self.say(message)}</p>' for message in messages)

    def answer(self) -> str:
        prediction = self.explanation.prediction
        ordered = sorted(prediction.probabilities.items(), key=lambda entry: -entry[1])
        rows = "".join(
            f'<tr><th>{escape(_capitalized(self.label_text(label)))}</th><td><div class="bar">'
            f'<div style="width:{100 * p:.1f}%"></div></div></td><td>{self.say(percent(p))}</td></tr>'
            for label, p in ordered
        )
        headline = self.say("The model's answer: {label}", label=self.label_text(prediction.label))
        doubt = f"<p>{self.say(NOT_RULED_OUT)}</p>" if self._is_no_tumor(prediction.label) else ""
        return f'<p class="answer">{headline}</p>{doubt}<table class="bars">{rows}</table>'

    def images(self) -> str:
        explanation, method = self.explanation, METHODS[self.explanation.method]
        title = self.say("{method} for: {label}", method=method.title, label=self.label_text(explanation.label))
        bar = color_bar(480, explanation.scale, signed=explanation.signed)
        colors = _image(bar.crop((MARGIN, 12, bar.width - MARGIN, 32)), "", "colors")
        words = "".join(f"<span>{self.say(word)}</span>" for word in ends(explanation.signed))
        scan = _image(enlarged(explanation.original), self.say("The scan"))
        drawn = _image(explanation.image(outline=True, bar="none"), title)
        # With many warnings there is less room on the page.
        height = max(46, 78 - 9 * len(explanation.prediction.warnings))
        return (
            f'<div class="columns" style="--height:{height}mm">'
            f"<figure><figcaption>{self.say('The scan')}</figcaption>{scan}</figure>"
            f'<figure><figcaption>{title}</figcaption>{drawn}{colors}<div class="ends">{words}</div></figure></div>'
        )

    def quality(self) -> str:
        """Return what was measured of the model and of its maps, here and elsewhere, in whole numbers."""
        metrics, label = self.classifier.metrics, self.explanation.label
        sentences = [self._at_home(metrics.get("test", {})), self._elsewhere(metrics), self._of_maps(label)]
        return _list([sentence for sentence in sentences if sentence])

    def _at_home(self, measured: Mapping) -> str:
        if "accuracy" not in measured:
            return self.say("How often this model is right has not been measured.")
        right = self.say(
            "It was right on {count} of 100 test scans of its own collection (n = {n}).",
            count=_of_100(measured["accuracy"]["value"]),
            n=f"{measured['n']:,}",
        )
        if not measured.get("tumor_miss_rate"):
            return right
        missed = self.say("It missed {count} of 100 tumors there.", count=_of_100(measured["tumor_miss_rate"]["value"]))
        return f"{right} {missed}"

    def _elsewhere(self, metrics: Mapping) -> str:
        kinds = metrics.get("shortcuts", {}).get("kinds", {})
        measured = [kind["tumor_or_not"] for name, kind in kinds.items() if name != "test" and "tumor_or_not" in kind]
        shares = [entry["value"] for entry in measured if entry["n"] >= MIN_SCANS]
        if not shares:
            return self.say("It has not been measured on scans from other collections; expect it to be worse there.")
        return self.say(
            "On scans from other collections it told tumor from no tumor in {worst} to {best} of 100.",
            worst=_of_100(min(shares)),
            best=_of_100(max(shares)),
        )

    def _of_maps(self, label: str) -> str:
        """Return how often such a map points at a tumor of this class, next to chance; nothing for no tumor."""
        explanations, method = self.classifier.explanations, self.explanation.method
        pointing = explanations.get("by_class", {}).get(label, {}).get(method, {}).get("pointing_game")
        chance = explanations.get("baselines", {}).get("uniform", {}).get("pointing_game")
        if self._is_no_tumor(label):
            return ""
        if not pointing or not chance:
            return self.say("How often such a map points at the tumor has not been measured for this class.")
        return self.say(
            "For this class, the strongest point of such a map was inside the marked tumor in {count} of 100 test "
            "scans (n = {n}; a blind guess: {chance} of 100).",
            count=_of_100(pointing["value"]),
            n=pointing["n"],
            chance=_of_100(chance["value"]),
        )

    def provenance(self) -> str:
        explanation, info = self.explanation, self.classifier.info
        settings = ", ".join(f"{name}: {_plain(value)}" for name, value in explanation.settings.items())
        facts = {
            "Method": f"{METHODS[explanation.method].title} ({settings})",
            "Full color": f"{explanation.scale:.2g} {explanation.unit}",
            "Model": f"{_public_id(info.id)} ({info.architecture})",
            "Revision": info.revision,
            "Software": f"Brain XAI {__version__}",
        }
        rows = "".join(f"<tr><th>{self.say(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
        return f'<table class="facts">{rows}</table>'

    def _is_no_tumor(self, label: str) -> bool:
        return label == self.classifier.no_tumor_label


def _label_text(classifier: Classifier) -> Callable[[str], str]:
    """Return what people read for a label of a classifier; never the bare words "no tumor"."""
    return lambda label: "no tumor recognized" if label == classifier.no_tumor_label else label.replace("_", " ")


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _of_100(fraction: float) -> str:
    """Return a measured fraction as people count; never all or none, which no sample can show."""
    count = round(100 * fraction)
    return {0: "<\N{NO-BREAK SPACE}1", 100: ">\N{NO-BREAK SPACE}99"}.get(count, str(count))


def _plain(value: object) -> str:
    """Return a setting as text, numbers short."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return " + ".join(f"{_plain(item)} {key}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " × ".join(map(_plain, value))
    return str(value)


def _public_id(checkpoint: str) -> str:
    """Return a checkpoint's id, of a folder only its name: where it lies is nobody's business."""
    return Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint


def _list(sentences: list[str]) -> str:
    """Return sentences, which are escaped already, as a list."""
    return f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in sentences)}</ul>"


def _image(image: Image.Image, alt: str, kind: str = "scan") -> str:
    """Return an image inside the page, reduced to 1,000 pixels; `alt` is escaped already."""
    plain = Image.fromarray(np.asarray(image.convert("RGB")))  # without what a file says about itself
    plain.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", quality=92)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="{kind}" alt="{alt}" src="data:image/jpeg;base64,{data}">'
