"""What the section for a study shows, as HTML: what is known about it, one of its slices, and messages."""

from html import escape

from brain_xai.study import StudyExplanation
from brain_xai.study.explain import percent
from brain_xai.study.report import DISCLAIMER, EACH_SLICE, data_url
from brain_xai.ui.language import _, translated
from brain_xai.ui.viewer import colors_mean
from brain_xai.unreadable import Series

ONE_SERIES = "{number}: {count} slices, {plane}, {width} × {height}"
FACTS = "{count} slices, {plane}, {spacing} mm apart. Maps for {label}."
SHOWN = "Slice {number} of {count}: {numbers}"
SLICE_ALT = "Slice {number}"
MAP_ALT = "What speaks for and against {label} in slice {number}"
# How many slices are offered to look at first.
FIRST = 8


def series_text(series: Series) -> str:
    """Return one of several series in words, to choose from."""
    width, height = series.size
    return _(ONE_SERIES, number=series.number, count=series.slices, plane=_(series.plane), width=width, height=height)


def first_choices(explained: StudyExplanation) -> list[tuple[str, int]]:
    """Return (text, number) of the slices to look at first."""
    return [
        (f"{index + 1} ({percent(explained.suspicion(index))})", index + 1) for index in explained.highlights(FIRST)
    ]


def notice_html(explained: StudyExplanation) -> str:
    """Return what is known about a study, and what must be known."""
    study = explained.study
    spacing, target = f"{study.spacing[0]:.1f}", _(explained.text(explained.label))
    facts = _(FACTS, count=len(study), plane=_(study.plane), spacing=spacing, label=target)
    messages = [facts, _(EACH_SLICE), *(translated(warning.message) for warning in explained.warnings)]
    return f'<div role="status"><p><b>{_(DISCLAIMER)}</b></p><p>{escape(" ".join(messages))}</p></div>'


def panel_html(explained: StudyExplanation, index: int) -> str:
    """Return a slice beside its map, with its probabilities and warnings. Nothing of it becomes a file."""
    explanation, prediction = explained.explanation(index), explained.predictions[index]
    warnings = "".join(f"<li>{escape(translated(warning.message))}</li>" for warning in prediction.warnings)
    number, numbers = index + 1, explained.numbers(index, _)
    said = escape(_(SHOWN, number=number, count=len(explained.study), numbers=numbers))
    described = escape(_(MAP_ALT, label=_(explained.text(explained.label)), number=number))
    alone = data_url(explanation.image(opacity=0, bar="none"))
    drawn = data_url(explanation.image(bar=colors_mean(explanation)))
    return (
        f'<p aria-live="polite"><b>{said}</b></p><ul>{warnings}</ul>'
        '<div style="display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start">'
        f'<img style="flex:1 1 280px;max-width:520px;min-width:0" alt="{_(SLICE_ALT, number=number)}" src="{alone}">'
        f'<img style="flex:1 1 280px;max-width:520px;min-width:0" src="{drawn}" '
        f'alt="{described}"></div>'
    )


def status_html(text: str) -> str:
    """Return a message that screen readers read when they are idle."""
    return f'<p role="status">{escape(text)}</p>'


def alert_html(text: str) -> str:
    """Return an error that screen readers announce."""
    return f'<p role="alert" class="error">{escape(text)}</p>'
