"""An answer in words: one sentence, its rows, its warnings, and what was measured about it."""

from collections.abc import Mapping, Sequence
from html import escape

from brain_xai import summary
from brain_xai.classifier import Classifier, Prediction, PredictionWarning
from brain_xai.methods import METHODS, Method
from brain_xai.ui import measured, texts
from brain_xai.ui.cases import NOT_A_BRAIN
from brain_xai.ui.language import _, translated

# Below this probability an answer is only the likeliest one.
LIKELY = 0.5


def is_tumor(classifier: Classifier, label: str) -> bool:
    """Return whether a map for a class can point at a tumor."""
    return label != (classifier.no_tumor_label or texts.NO_TUMOR)


def percent(fraction: float) -> str:
    """Return a probability as whole percent, never none or all, in the visitor's language."""
    return translated(summary.percent(fraction))


def sentence(classifier: Classifier, prediction: Prediction) -> str:
    """Return the answer as one sentence of plain text; never the bare words "no tumor"."""
    probability = prediction.probabilities[prediction.label]
    name = texts.heading(prediction.label)
    if not is_tumor(classifier, prediction.label):
        wording = texts.NOTHING_RECOGNIZED
    else:
        wording = texts.RECOGNIZED if probability >= LIKELY else texts.MOST_LIKELY
    return _(wording, name=name, certainty=percent(probability))


def answer_html(classifier: Classifier, prediction: Prediction) -> str:
    """Return the answer with what it does not say, and how often such answers are right, as HTML."""
    name, _colon, rest = sentence(classifier, prediction).partition(":")
    lines = [f'<h2><strong>{escape(name)}</strong><span class="certainty">{escape(rest.strip())}</span></h2>']
    if not is_tumor(classifier, prediction.label):
        lines.append(f"<p><strong>{_(texts.NOT_RULED_OUT)}</strong> {_(texts.UNKNOWN_DISEASES)}</p>")
    return "".join(lines) + f'<p class="fine-print">{escape(measured.in_short(classifier.metrics))}</p>'


def rows(prediction: Prediction, before: Prediction | None = None) -> list[tuple[str, str]]:
    """Return (text, label) of each class, the likeliest first; with its probability in the answer `before` this one."""
    first = (before or prediction).probabilities
    choices = []
    for label in sorted(first, key=first.__getitem__, reverse=True):
        change = f"{percent(first[label])} → " if before else ""
        choices.append((f"{texts.heading(label)}: {change}{percent(prediction.probabilities[label])}", label))
    return choices


def guesses(classifier: Classifier) -> list[tuple[str, str]]:
    """Return (text, label) of what a visitor can guess about a case."""
    return [(texts.guess_text(label), label) for label in (*classifier.label_names, NOT_A_BRAIN)]


def bars(prediction: Prediction, choices: Sequence[tuple[str, str]]) -> str:
    """Return the lengths of the bars behind the rows, as a style sheet."""
    lengths = (
        f"#target label:nth-of-type({n}){{--share:{prediction.probabilities[label]:.3f}}}"
        for n, (_, label) in enumerate(choices, 1)
    )
    return f"<style>{''.join(lengths)}</style>"


def warnings_html(warnings: Sequence[PredictionWarning]) -> str:
    """Return warnings as HTML, "" if there are none; what makes an answer meaningless comes first."""
    ordered = sorted(warnings, key=lambda warning: warning.code != "not_brain_mri")
    return "".join(f'<p class="notice warning">{escape(translated(warning.message))}</p>' for warning in ordered)


def strongest_tumor(classifier: Classifier, prediction: Prediction) -> str | None:
    """Return the likeliest class that is a tumor, None if there is none."""
    tumors = [label for label in prediction.probabilities if is_tumor(classifier, label)]
    return max(tumors, key=prediction.probabilities.__getitem__, default=None)


def how_good(classifier: Classifier, method: str, label: str) -> str:
    """Return how often such maps point into tumors of one class, next to chance; "" where that was not measured."""
    if not is_tumor(classifier, label):
        return ""
    found = classifier.explanations.get("by_class", {}).get(label, {})
    hits, chance = (_pointing(found.get(key)) for key in (method, "uniform"))
    if hits is None or chance is None:
        return ""
    return _(texts.HITS, label=texts.label_text(label), hits=measured.of_100(hits), chance=measured.of_100(chance))


def method_choices(classifier: Classifier, seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return (text, key) of the methods that work on a model, best measured first, with quality and time."""
    found = classifier.explanations.get("methods", {})
    hits = {key: _pointing(found.get(key)) for key in usable(classifier)}
    ordered = sorted(hits, key=lambda key: -(hits[key] or 0))
    return [(_method_text(METHODS[key], hits[key], seconds[key]), key) for key in ordered]


def usable(classifier: Classifier) -> list[str]:
    """Return the keys of the methods that work on a model."""
    return [key for key, method in METHODS.items() if method.reason_unsupported(classifier) is None]


def caption_html(method: Method, label: str, sentence: str, quality: str) -> str:
    """Return the words below a map: what it explains and shows, how to read it, how good such maps are."""
    first = f"<p><strong>{escape(method.title)}, {escape(texts.label_text(label))}.</strong> {escape(sentence)}</p>"
    more = " ".join(filter(None, ("" if method.signed else _(texts.UNSIGNED), quality)))
    return first + (f'<p class="fine-print">{escape(more)}</p>' if more else "")


def _method_text(method: Method, hits: float | None, seconds: float) -> str:
    parts = [method.title]
    if hits is not None:
        parts.append(measured.of_100(hits))
    if seconds >= 0.5:
        parts.append(f"{seconds:.0f} s" if seconds >= 1 else "1 s")
    return " · ".join(parts)


def _pointing(found: Mapping | None) -> float | None:
    return (found or {}).get("pointing_game", {}).get("value")
