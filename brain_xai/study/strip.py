"""The strip of a study: the probabilities of every slice, side by side along the axis, as SVG."""

from html import escape

from brain_xai.study.explain import StudyExplanation
from brain_xai.study.head import Place

# Distinguishable with any color vision, and neither of the colors of a map.
COLORS = ("#0f766e", "#a855f7", "#64748b", "#ca8a04", "#be185d", "#4d7c0f")
WIDTH, HEIGHT, GAP = 1000, 120, 18
# Outside of the head, bars are pale.
PALE = 0.25


def strip_svg(explained: StudyExplanation, current: int | None = None) -> str:
    """Draw the probabilities of all slices.

    Args:
        explained: The study.
        current: The slice to mark.

    Returns:
        An SVG element as wide as its surroundings: a bar per slice, with the classes other than "no tumor" on top of
        each other; pale where the slice does not show the head, with a line below the ends of the head.
    """
    width = WIDTH / len(explained.study)
    bars = "".join(_bar(explained, index, width) for index in range(len(explained.study)))
    marker = ""
    if current is not None:
        marker = (
            f'<rect x="{current * width:.2f}" y="0" width="{max(width, 3):.2f}" height="{HEIGHT}" fill="none" '
            'stroke="currentColor" stroke-width="2"/>'
        )
    first, last = (escape(end) for end in explained.study.ends)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 3 * GAP}" width="100%" role="img" font-size="14" fill="currentColor" '
        f'aria-label="{escape(_summary(explained))}">'
        f'<path d="M0 0.5H{WIDTH}M0 {HEIGHT / 2}H{WIDTH}M0 {HEIGHT}H{WIDTH}" stroke="currentColor" opacity=".25"/>'
        f'{bars}{marker}<text x="0" y="{HEIGHT + GAP}">{first}: slice 1</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + GAP}" text-anchor="end">{last}: slice {len(explained.study)}</text>'
        f"{_legend(explained)}</svg>"
    )


def shown_labels(explained: StudyExplanation) -> list[str]:
    """Return the classes that the strip shows: all but "no tumor"."""
    return [label for label in explained.classifier.label_names if label != explained.classifier.no_tumor_label]


def _bar(explained: StudyExplanation, index: int, width: float) -> str:
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
    said = ", ".join(f"{label} {percent(p)}" for label, p in prediction.probabilities.items())
    return f'<g opacity="{opacity}"><title>{escape(f"Slice {index + 1}: {said}")}</title>{"".join(parts)}</g>'


def _legend(explained: StudyExplanation) -> str:
    parts, x = [], 0.0
    for number, label in enumerate(shown_labels(explained)):
        parts.append(
            f'<rect x="{x}" y="{HEIGHT + 2 * GAP}" width="12" height="12" fill="{COLORS[number % len(COLORS)]}"/>'
            f'<text x="{x + 18}" y="{HEIGHT + 2 * GAP + 11}">{escape(label)}</text>'
        )
        x += 40 + 9 * len(label)
    parts.append(
        f'<text x="{WIDTH}" y="{HEIGHT + 2 * GAP + 11}" text-anchor="end" opacity=".8">'
        "Height: probability. Line below: end of the head. Pale: not the head.</text>"
    )
    return "".join(parts)


def _summary(explained: StudyExplanation) -> str:
    top = explained.ranking()[:3]
    named = ", ".join(f"slice {index + 1} ({percent(explained.suspicion(index))})" for index in top)
    return f"Probability of a tumor in {len(explained.study)} slices. Highest in {named}."


def percent(probability: float) -> str:
    """Return a probability as people read it; no model may say 0 or 100 %."""
    if probability < 0.01:
        return "< 1 %"
    return "> 99 %" if probability > 0.99 else f"{100 * probability:.0f} %"
