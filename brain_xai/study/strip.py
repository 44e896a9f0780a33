"""The strip of a study: the probabilities of every slice, side by side along the axis, as HTML."""

from collections.abc import Callable
from html import escape

from brain_xai.study.explain import StudyExplanation, percent
from brain_xai.study.head import Place

# Distinguishable with any color vision, and neither of the colors of a map.
COLORS = ("#0f766e", "#a855f7", "#64748b", "#ca8a04", "#be185d", "#4d7c0f")
WIDTH, HEIGHT = 1000, 120
SPREAD = "display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 14px"
SLICE = "slice {number}"
BAR = "Slice {number}: {numbers}"
LEGEND = "Height: probability. Line below: end of the head. Pale: not the head."
SUMMARY = "Probability of a tumor in {count} slices. Highest in {slices}."
# Outside of the head, bars are pale.
PALE = 0.25


Translate = Callable[[str], str]


def strip_html(explained: StudyExplanation, current: int | None = None, translate: Translate = str) -> str:
    """Draw the probabilities of all slices.

    Args:
        explained: The study.
        current: The slice to mark.
        translate: Returns an English sentence or word in another language; {names} in it stay as they are.

    Returns:
        HTML as wide as its surroundings, an SVG and its legend: a bar per slice, with the classes other than "no tumor"
        on top of each other; pale where the slice does not show the head, with a line below the ends of the head.
    """
    width = WIDTH / len(explained.study)
    bars = "".join(_bar(explained, index, width, translate) for index in range(len(explained.study)))
    marker = ""
    if current is not None:
        marker = (
            f'<rect x="{current * width:.2f}" y="0" width="{max(width, 3):.2f}" height="{HEIGHT}" fill="none" '
            'stroke="currentColor" stroke-width="2" vector-effect="non-scaling-stroke"/>'
        )
    first, last = (escape(translate(end)) for end in explained.study.ends)
    count, summary = len(explained.study), escape(_summary(explained, translate))
    return (
        f'<div style="font-size:13px"><svg viewBox="0 0 {WIDTH} {HEIGHT + 5}" preserveAspectRatio="none" role="img" '
        f'data-slices="{count}" '
        f'style="width:100%;height:100px;display:block" fill="currentColor" aria-label="{summary}">'
        f'<path d="M0 0.5H{WIDTH}M0 {HEIGHT / 2}H{WIDTH}M0 {HEIGHT}H{WIDTH}" stroke="currentColor" opacity=".25"/>'
        f"{bars}{marker}</svg>"
        f'<div style="{SPREAD}"><span>{first}: {translate(SLICE).format(number=1)}</span>'
        f"<span>{last}: {translate(SLICE).format(number=count)}</span></div>"
        f'<div style="{SPREAD}">{_legend(explained, translate)}</div></div>'
    )


def shown_labels(explained: StudyExplanation) -> list[str]:
    """Return the classes that the strip shows: all but "no tumor"."""
    return [label for label in explained.classifier.label_names if label != explained.classifier.no_tumor_label]


def _bar(explained: StudyExplanation, index: int, width: float, translate: Translate) -> str:
    prediction, place = explained.predictions[index], explained.places[index]
    x, top, parts = index * width, float(HEIGHT), []
    for number, label in enumerate(shown_labels(explained)):
        height = prediction.probabilities[label] * HEIGHT
        top -= height
        parts.append(
            f'<rect x="{x:.2f}" y="{top:.2f}" width="{max(width - 0.5, 0.5):.2f}" height="{height:.2f}" '
            f'fill="{COLORS[number % len(COLORS)]}"/>'
        )
    if place is Place.EDGE:
        parts.append(f'<rect x="{x:.2f}" y="{HEIGHT + 1}" width="{width:.2f}" height="3" opacity=".5"/>')
    opacity = PALE if place is Place.OUTSIDE else 1
    said = translate(BAR).format(number=index + 1, numbers=explained.numbers(index, translate))
    return f'<g opacity="{opacity}"><title>{escape(said)}</title>{"".join(parts)}</g>'


def _legend(explained: StudyExplanation, translate: Translate) -> str:
    names = (escape(translate(explained.text(label))) for label in shown_labels(explained))
    named = "".join(
        f'<span><span style="color:{COLORS[number % len(COLORS)]}">■</span> {name}</span>'
        for number, name in enumerate(names)
    )
    return f"{named}<span>{translate(LEGEND)}</span>"


def _summary(explained: StudyExplanation, translate: Translate) -> str:
    top = explained.ranking()[:3]
    named = ", ".join(
        f"{translate(SLICE).format(number=index + 1)} ({percent(explained.suspicion(index))})" for index in top
    )
    return translate(SUMMARY).format(count=len(explained.study), slices=named)
