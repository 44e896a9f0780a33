"""Small charts as SVG inside HTML: the shapes stretch to any width, the words around them stay readable on a phone."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

HEIGHT = 100


@dataclass(frozen=True)
class Series:
    """Values over time, None where there are none; `kind` is the class in the style sheet that gives the color."""

    name: str
    values: Sequence[float | None]
    kind: str = "a"


@dataclass(frozen=True)
class Axis:
    """What is below and beside a chart: the name of every slot of time, and how a value is written."""

    slots: Sequence[str]
    unit: str = ""
    top: float | None = None

    def text(self, value: float) -> str:
        """Return a value as it is written."""
        return f"{value:,.0f}{self.unit}" if value >= 10 or value == int(value) else f"{value:.2g}{self.unit}"


def bars(series: Sequence[Series], axis: Axis) -> str:
    """Return a chart of stacked bars, the first series lowest."""
    totals = [sum(one.values[slot] or 0 for one in series) for slot in range(len(axis.slots))]
    top = axis.top or max([*totals, 1])
    shapes = []
    for slot, name in enumerate(axis.slots):
        base, said = float(HEIGHT), []
        for one in series:
            value = one.values[slot] or 0
            height = HEIGHT * value / top
            base -= height
            said.append(f"{axis.text(value)} {one.name}")
            if value:
                shape = f'<rect class="{one.kind}" x="{slot + 0.1}" y="{base:.2f}" width="0.8" height="{height:.2f}"/>'
                shapes.append(shape)
        shapes.append(_tip(slot, f"{name}: {', '.join(said)}"))
    return _chart(shapes, series, axis, top)


def lines(series: Sequence[Series], axis: Axis) -> str:
    """Return a chart of lines; they are broken where nothing was measured, and a lone value is a dash."""
    known = [value for one in series for value in one.values if value is not None]
    top = axis.top or max(known, default=1)
    shapes = []
    for one in series:
        for run in _runs(one.values):
            points = " ".join(f"{x:.2f},{HEIGHT - HEIGHT * value / top:.2f}" for x, value in run)
            shapes.append(f'<polyline class="{one.kind}" points="{points}"/>')
    for slot, name in enumerate(axis.slots):
        said = [f"{axis.text(one.values[slot])} {one.name}" for one in series if one.values[slot] is not None]
        if said:
            shapes.append(_tip(slot, f"{name}: {', '.join(said)}"))
    return _chart(shapes, series, axis, top)


def _runs(values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """Return the points of a line in pieces without a gap; a piece of one value is as long as its slot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for slot, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((slot + 0.5, value))
    return [[(run[0][0] - 0.4, run[0][1]), *run, (run[-1][0] + 0.4, run[-1][1])] for run in runs if run]


def _tip(slot: int, text: str) -> str:
    """Return an invisible bar that says what is at its place, to a mouse."""
    return f'<rect class="tip" x="{slot}" y="0" width="1" height="{HEIGHT}"><title>{escape(text)}</title></rect>'


def _chart(shapes: Sequence[str], series: Sequence[Series], axis: Axis, top: float) -> str:
    legend = "".join(f'<span class="key {one.kind}">{escape(one.name)}</span>' for one in series)
    return (
        f'<figure><figcaption>{legend}<span class="top">{escape(axis.text(top))}</span></figcaption>'
        f'<svg viewBox="0 0 {len(axis.slots)} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(", ".join(one.name for one in series))} over time">{"".join(shapes)}</svg>'
        f'<div class="ends"><span>{escape(axis.slots[0])}</span><span>{escape(axis.slots[-1])}</span></div></figure>'
    )
